"""TensorFlow, imported late and quietly, and the loading of SavedModels."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from activity_embeddings.transformations.contract.saved_model import fingerprint
from activity_embeddings.transformations.errors import InvalidInput, ModelMismatch, first_line


def tensorflow() -> Any:
    """Import TensorFlow only when a model is to be run, since the import takes seconds.

    TensorFlow's native code writes a page of notes about the machine to stderr before any setting
    of its can stop it. They are held back, unless the import fails or the user has set
    `TF_CPP_MIN_LOG_LEVEL`.
    """
    if "tensorflow" not in sys.modules and "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
        with held_back_stderr():
            import tensorflow as tf

            tf.config.list_logical_devices()
    import tensorflow as tf

    return tf


_stderr_lock = threading.RLock()


@contextmanager
def held_back_stderr() -> Iterator[None]:
    """Hold back what native code writes to stderr; show it if the body fails."""
    with _stderr_lock:
        yield from _hold_back_stderr()


def _hold_back_stderr() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(kept, log.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def load_saved_model(path: Path, label: str, content: str) -> Any:
    """Return the loaded SavedModel in folder `path`.

    Parameters
    ----------
    path
        The folder.
    label
        What errors call it.
    content
        The fingerprint that it had when it was checked.

    Raises
    ------
    InvalidInput
        TensorFlow cannot load it.
    ModelMismatch
        It was replaced since it was checked.
    """
    tf = tensorflow()
    try:
        loaded = tf.saved_model.load(str(path))
        # Afterwards: what was loaded was there before.
        received = fingerprint(path)
    except Exception as error:  # TensorFlow raises many kinds for a broken SavedModel
        raise InvalidInput(
            f"{label}: expected a loadable SavedModel at {path}. "
            f"Received: {type(error).__name__}: {first_line(error)}"
        ) from error
    if received != content:
        raise ModelMismatch(
            f"{label}: the SavedModel at {path} should be the one that was checked, fingerprint "
            f"{content}. Received: {received} (changed since then)"
        )
    return loaded
