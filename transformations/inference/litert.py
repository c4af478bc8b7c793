"""Models run by LiteRT, which starts at once; a call costs a fraction of one of TensorFlow."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping

import numpy as np

from activity_embeddings.transformations import names
from activity_embeddings.transformations.contract.saved_model import SIGNATURE

SEQUENCES_A_CALL = 256
"""More a call are no faster, and by one thread fewer are a little faster."""


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class LiteRTModel:
    """A converted model.

    One caller at a time: the computation is short beside the rest of a request.

    Parameters
    ----------
    content
        Of a LiteRT file, see `conversion.convert`.
    threads
        Of a call.
    """

    def __init__(self, content: bytes, *, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        # It knows which tensors these are, but calling it costs as much as a small model.
        runner = self._interpreter.get_signature_runner(SIGNATURE)
        self._inputs = {name: d["index"] for name, d in runner.get_input_details().items()}
        self._outputs = {name: d["index"] for name, d in runner.get_output_details().items()}
        self._count = 0
        self._lock = threading.Lock()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs, float32 [n, d]; inputs that the model does not take are ignored."""
        run = self._interpreter
        with self._lock:
            count = len(inputs[names.INPUT_ACTIONS])
            if count != self._count:
                # Unknown until all tensors are of the new size.
                self._count = -1
                for name, index in self._inputs.items():
                    run.resize_tensor_input(index, inputs[name].shape)
                run.allocate_tensors()
                self._count = count
            for name, index in self._inputs.items():
                run.set_tensor(index, inputs[name])
            run.invoke()
            return {name: run.get_tensor(index) for name, index in self._outputs.items()}
