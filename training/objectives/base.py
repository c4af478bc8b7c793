"""What an activity model is trained to do. An objective is one class of this kind.

It says which examples it wants (`examples`, and `finisher` for what is drawn once a batch) and what
a model should do with them (`task`). Everything else - streams, epochs, checkpoints, early
stopping on the ranking of held-out items, packaging - is the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from activity_embeddings.training.examples.history import INPUT_ITEM_ROWS, ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.examples.stream import Arrays, ExampleStream
from activity_embeddings.training.models.ensemble import networks_of
from activity_embeddings.training.models.lengths import ByLength
from activity_embeddings.training.outputs import ACTIVITY_EMBEDDING
from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.errors import InvalidInput

WEIGHT = "weight"
"""Sample weights among a batch's arrays, float32 [n]."""

Finish = Callable[[Arrays, np.random.Generator], Arrays]
"""From a batch to the batch with what is drawn for it."""

Lookup = Callable[[Any], Any]
"""From rows of item vectors, int32 [...], to the vectors, float32 [..., D]."""


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """An objective and its settings, which are JSON values."""

    name: ClassVar[str]

    @abstractmethod
    def examples(
        self, history: ActivityHistory, period: Period, random: np.random.Generator
    ) -> Arrays:
        """Return the examples of some members in a period: arrays with a row an example."""

    def finisher(self, history: ActivityHistory, period: Period) -> Finish:
        """Return the function that adds to a batch what is drawn once for all its rows."""
        return lambda batch, random: batch

    @abstractmethod
    def task(
        self, sub_model: keras.Model, history: ActivityHistory, period: Period
    ) -> TrainingTask:
        """Return the Keras model that trains `sub_model` on batches of such examples.

        Parameters
        ----------
        sub_model
            The activity model.
        history
            Events and vectors.
        period
            Of the events that are learned from.
        """

    def balance(
        self, history: ActivityHistory, period: Period, *, seed: int = 0
    ) -> dict[str, dict[str, int]]:
        """Return counts of examples, for people and the manifest, from one pass over the data."""
        stream = self.stream(history, period, seed=seed)
        return {"examples": {"all": sum(len(part[WEIGHT]) for part, _ in stream.groups())}}

    def stream(
        self,
        history: ActivityHistory,
        period: Period,
        *,
        batch_size: int = 256,
        seed: int = 0,
        shuffle: bool = True,
    ) -> ExampleStream:
        """Return the examples of all members in a period as a stream."""
        return ExampleStream(
            history,
            period,
            lambda part, random: self.examples(part, period, random),
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            finish=self.finisher(history, period),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return name and settings as JSON values."""
        return {"objective": self.name, **asdict(self)}


def member_weights(member: np.ndarray, exponent: float) -> np.ndarray:
    """Return `n**-exponent` for each example of a member with n of them, float32.

    0 weighs every example alike, 1 every member, and 0.5 is between the two.
    """
    _, position, counts = np.unique(member, return_inverse=True, return_counts=True)
    return (counts[position] ** -float(exponent)).astype(np.float32)


class TrainingTask(keras.Model):
    """A sub-model, frozen item vectors and a loss.

    Subclasses give `losses_of`. `call` returns the loss of each row; the loss of a batch is their
    mean under the batch's weights.

    Parameters
    ----------
    sub_model
        The activity model; an output `activity_embedding` of the vectors' length.
    vectors
        The item vectors that example rows point into.

    Raises
    ------
    InvalidInput
        The sub-model has no such output.
    """

    def __init__(self, sub_model: keras.Model, vectors: ItemVectors, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        outputs = sub_model.output if isinstance(sub_model.output, dict) else {}
        shapes = {name: tensor.shape for name, tensor in outputs.items()}
        if shapes.get(ACTIVITY_EMBEDDING) != (None, vectors.dimension):
            raise InvalidInput(
                f"model {sub_model.name!r}: training expects an output {ACTIVITY_EMBEDDING!r} of "
                f"length {vectors.dimension}, that of an item embedding. "
                f"Received: {shapes or 'no dict of outputs'}"
            )
        self.sub_model = sub_model
        self._reads = [ByLength(network) for network in networks_of(sub_model)]
        self.matrix = self.add_weight(
            shape=vectors.matrix.shape, initializer="zeros", trainable=False, name="item_embeddings"
        )
        self.matrix.assign(vectors.matrix)

    def lookup(self, inputs: dict[str, Any], training: bool | None = None) -> Lookup:
        """Return the function from rows of a batch to item vectors, float32 [..., D]."""
        return lambda rows: ops.take(self.matrix, rows, axis=0)

    def embed(
        self, inputs: dict[str, Any], vectors_of: Lookup, training: bool | None = None
    ) -> Any:
        """Return the activity embeddings of a batch, float32 [n, D]."""
        return _mean(self.embeddings(inputs, vectors_of, training))

    def embeddings(
        self, inputs: dict[str, Any], vectors_of: Lookup, training: bool | None = None
    ) -> list[Any]:
        """Return those of each network of an ensemble, else of the one, float32 [n, D] each."""
        own = {
            name: inputs[INPUT_ITEM_ROWS if name == names.INPUT_ITEM_EMBEDDINGS else name]
            for name in self.sub_model.input
        }

        def inputs_of(place: Any, length: int) -> dict[str, Any]:
            cut = {name: ops.take(own[name], place, axis=0)[:, -length:] for name in own}
            cut[names.INPUT_ITEM_EMBEDDINGS] = vectors_of(cut[names.INPUT_ITEM_EMBEDDINGS])
            return cut

        actions = inputs[names.INPUT_ACTIONS]
        return [read(actions, inputs_of, training)[ACTIVITY_EMBEDDING] for read in self._reads]

    def losses_of(self, embedding: Any, inputs: dict[str, Any], vectors_of: Lookup) -> Any:
        """Return the loss of each row, float32 [n].

        Parameters
        ----------
        embedding
            float32 [n, D].
        inputs
            A batch of the objective's examples.
        vectors_of
            From rows to item vectors.
        """
        raise NotImplementedError

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Return the loss of each row of a batch, float32 [n]: of an ensemble, the mean of all."""
        vectors_of = self.lookup(inputs, training)
        losses = [
            self.losses_of(embedding, inputs, vectors_of)
            for embedding in self.embeddings(inputs, vectors_of, training)
        ]
        return _mean(losses)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the mean of the rows' losses under their weights."""
        weights = x[WEIGHT]
        return ops.sum(y_pred * weights) / ops.maximum(ops.sum(weights), 1e-9)


def _mean(values: list[Any]) -> Any:
    """Return the mean of tensors of one shape."""
    return values[0] if len(values) == 1 else ops.mean(ops.stack(values), axis=0)
