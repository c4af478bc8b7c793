"""Sequences to embeddings: every registered model in one pass over one preparation of the data."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.contract.litert_file import LITERT
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.inference.inputs import Inputs
from activity_embeddings.transformations.inference.litert import (
    SEQUENCES_A_CALL,
    LiteRTModel,
    cores,
)
from activity_embeddings.transformations.wording import out_of

_log = logging.getLogger(__name__)

BATCH_SIZE = 1024
"""Members a model call; larger batches are not faster and need more memory."""


class Embedder:
    """Runs loaded models over sequences.

    A member's data is prepared once, whatever the number of models: the item vectors of a batch
    are gathered once, and every model is called on them. A model runs by LiteRT where its
    packaging says so, and else by TensorFlow, which is imported only then.

    Parameters
    ----------
    models
        The models, as checked by `describe_models`.
    batch_size
        Members a call.
    for_requests
        Whether to run every model by LiteRT that can be converted, for the few members that a
        request asks for: calling a SavedModel for one sequence takes many times longer than
        computing it. A model without a LiteRT file is converted first, with TensorFlow.
    threads
        Of a call by LiteRT. None: one for requests, since a server answers several at once, and as
        many as there are cores for a batch, which has the machine to itself.

    Raises
    ------
    InvalidInput
        A model cannot be loaded; the message names it.
    ModelMismatch
        It was replaced since it was checked.
    """

    def __init__(
        self,
        models: Sequence[ModelDescription],
        *,
        batch_size: int = BATCH_SIZE,
        for_requests: bool = False,
        threads: int | None = None,
    ) -> None:
        self.models = list(models)
        self.batch_size = batch_size
        contents = {model.name: _litert_content(model, for_requests) for model in models}
        if threads is None:
            threads = 1 if for_requests else cores()
        self._litert = {
            name: LiteRTModel(content, threads=threads)
            for name, content in contents.items()
            if content is not None
        }
        saved = [model for model in models if model.name not in self._litert]
        self._saved_names = [model.name for model in saved]
        if saved:
            from activity_embeddings.transformations.inference.saved_models import SavedModels

            self._saved = SavedModels(saved)

    def __call__(
        self, sequences: Sequences, vectors: ItemVectors
    ) -> dict[str, dict[str, np.ndarray]]:
        """Embed n sequences.

        Returns
        -------
        dict[str, dict[str, np.ndarray]]
            dict of model name to dict of output name to float32 [n, d]. A sequence without any
            activity gives zero vectors, from every model.

        Raises
        ------
        InvalidInput
            A model gave a value that is not finite.
        """
        count = int(np.count_nonzero(sequences.count))
        if count == len(sequences) <= self.batch_size and self.models and count:
            # As of most requests: one batch, and nobody without activity.
            embedded = self._call(vectors, sequences.rows(vectors), self._inputs(sequences))
            results = dict(zip([m.name for m in self.models], embedded, strict=True))
        else:
            results = self._embed_active(sequences, vectors, count)
        for model in self.models:
            for output, values in results[model.name].items():
                _require_finite(model, output, values)
        return results

    def _embed_active(
        self, sequences: Sequences, vectors: ItemVectors, count: int
    ) -> dict[str, dict[str, np.ndarray]]:
        """Embed those of n sequences that have activity, `count` of them, batch by batch."""
        results = {
            model.name: {
                output: np.zeros((len(sequences), size), dtype=np.float32)
                for output, size in model.outputs.items()
            }
            for model in self.models
        }
        if not count or not self.models:
            return results
        rows, inputs = sequences.rows(vectors), self._inputs(sequences)
        active: np.ndarray | None = None
        if count < len(sequences):
            active = np.flatnonzero(sequences.count)
            rows, inputs = rows[active], inputs.part(active)
        for start in range(0, len(rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            target = part if active is None else active[part]
            outputs = self._call(vectors, rows[part], inputs.part(part))
            for model, embedded in zip(self.models, outputs, strict=True):
                for output, values in embedded.items():
                    results[model.name][output][target] = values
        return results

    def _call(
        self, vectors: ItemVectors, rows: np.ndarray, inputs: Inputs
    ) -> list[dict[str, np.ndarray]]:
        """Call every model on one batch."""
        called = self._call_litert(vectors, rows, inputs)
        if self._saved_names:
            outputs = self._saved(vectors, rows, inputs)
            called |= zip(self._saved_names, outputs, strict=True)
        # In the order of the model's outputs: TensorFlow gives them in one that changes from
        # process to process, and they become columns of files that should not change.
        return [
            {output: called[model.name][output] for output in model.outputs}
            for model in self.models
        ]

    def _call_litert(
        self, vectors: ItemVectors, rows: np.ndarray, inputs: Inputs
    ) -> dict[str, dict[str, np.ndarray]]:
        """Call the models that LiteRT runs, by a few sequences at a time."""
        parts = []
        for start in range(0, len(rows) if self._litert else 0, SEQUENCES_A_CALL):
            part = slice(start, start + SEQUENCES_A_CALL)
            given = inputs.part(part).by_name()
            given[names.INPUT_ITEM_EMBEDDINGS] = vectors.matrix.take(rows[part], axis=0)
            parts.append({name: model(given) for name, model in self._litert.items()})
        if len(parts) == 1:
            return parts[0]
        return {
            name: {
                output: np.concatenate([part[name][output] for part in parts])
                for output in parts[0][name]
            }
            for name in self._litert
        }

    def _inputs(self, sequences: Sequences) -> Inputs:
        """Return what models read beside item vectors; zeros where no model reads it."""
        shape = sequences.action.shape
        ages = any(model.uses_ages for model in self.models)
        sessions = any(model.uses_sessions for model in self.models)
        return Inputs(
            sequences.action,
            sequences.ages if ages else np.zeros(shape, dtype=np.float32),
            sequences.sessions if sessions else np.zeros(shape, dtype=np.int32),
        )


def _require_finite(model: ModelDescription, output: str, values: np.ndarray) -> None:
    """Raise `InvalidInput` where a model gave NaN or infinity."""
    # A sum is not finite if a part of it is not; only then is it worth looking at each.
    if np.isfinite(values.sum()):
        return
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InvalidInput(
            f"model {model.name!r} (version {model.version}): output {output!r} should be finite. "
            f"Received: NaN or infinity for {out_of(len(bad), len(values), 'member')}"
        )


def _litert_content(model: ModelDescription, for_requests: bool) -> bytes | None:
    """Return what LiteRT runs a model from, None for one that TensorFlow runs."""
    if model.runtime == LITERT or (for_requests and model.converted):
        assert model.converted is not None
        return model.converted.read(model.name)
    if not for_requests:
        return None
    from activity_embeddings.transformations.inference.conversion import convert

    conversion = convert(model, timed=False)
    if conversion.content is None:
        _log.info("model %r stays a SavedModel: %s", model.name, conversion.left_out)
    return conversion.content
