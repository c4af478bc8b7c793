"""Transformer: every activity read beside every other one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from activity_embeddings.training.models.base import Network, mean_and_newest
from activity_embeddings.training.models.registry import register
from activity_embeddings.transformations.errors import InvalidInput, require_at_least


@keras.saving.register_keras_serializable(package="activity_embeddings")
class Recency(keras.layers.Layer):
    """Add to each position the number of newer ones, through a learnt projection.

    The number k becomes `sin(k / 100**(i / n))` and `cos` of the same for i = 0, …, n - 1, as in
    Vaswani et al., "Attention Is All You Need" (2017), with 100 in place of 10000 since there
    are tens of positions. Counted from the newest, it is the same at every length.

    Parameters
    ----------
    waves
        How many wave lengths, n.
    """

    def __init__(self, waves: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.waves = waves

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Create the projection."""
        # Small beside what the activities are about, which is read first.
        self.kernel = self.add_weight(
            shape=(2 * self.waves, shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.05),
            name="kernel",
        )

    def call(self, inputs: Any) -> Any:
        """Add to float32 [batch, length, width]; to PAD positions too."""
        newer = np.arange(inputs.shape[1])[::-1, None]
        angles = newer / 100.0 ** (np.arange(self.waves) / self.waves)
        waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
        return inputs + ops.matmul(waves, self.kernel)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "waves": self.waves}


@keras.saving.register_keras_serializable(package="activity_embeddings")
class SelfAttention(keras.layers.Layer):
    """Multi-head attention of every position to the activities, PAD left out.

    `keras.layers.MultiHeadAttention` without biases, but a third faster on CPUs for so short
    sequences. (Biases of keys would never get a gradient: they cancel out in the softmax.)

    Parameters
    ----------
    heads
        A divisor of the inputs' width.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, shape: tuple[int | None, ...], *_: Any) -> None:
        """Create the projections of queries, keys and values, and that of the result."""
        width = shape[-1]
        assert width is not None
        for name in ("query", "key", "value", "output"):
            kernel = self.add_weight(
                shape=(width, width), initializer="glorot_uniform", name=f"{name}_kernel"
            )
            setattr(self, f"{name}_kernel", kernel)

    def call(self, inputs: Any, mask_in: Any) -> Any:
        """Attend.

        Parameters
        ----------
        inputs
            float32 [batch, length, width].
        mask_in
            float32 [batch, length, 1]; 1 for activities, 0 for PAD.

        Returns
        -------
        Any
            float32 [batch, length, width]; where all is PAD, finite but meaningless.
        """
        _, length, width = inputs.shape
        size = width // self.heads

        def heads_of(kernel: Any) -> Any:
            split = ops.reshape(ops.matmul(inputs, kernel), (-1, length, self.heads, size))
            return ops.transpose(split, (0, 2, 1, 3))

        query, key = heads_of(self.query_kernel), heads_of(self.key_kernel)
        # The exponential of anything so small is exactly 0.
        left_out = (ops.reshape(mask_in, (-1, 1, 1, length)) - 1.0) * 1e9
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * size**-0.5 + left_out
        read = ops.matmul(ops.softmax(scores, axis=-1), heads_of(self.value_kernel))
        joined = ops.reshape(ops.transpose(read, (0, 2, 1, 3)), (-1, length, width))
        return ops.matmul(joined, self.output_kernel)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "heads": self.heads}


@register("transformer")
@dataclass(frozen=True, kw_only=True)
class Transformer(Network):
    """Pre-norm Transformer blocks, pooled; about 41,000 parameters at 64-d vectors.

    Attributes
    ----------
    width
        Width of each position; a multiple of `heads`.
    heads
        Heads of the attention.
    blocks
        How many, each of attention and two dense layers.
    """

    width: int = 48
    heads: int = 4
    blocks: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("Transformer", 1, width=self.width, heads=self.heads, blocks=self.blocks)
        if self.width % self.heads:
            raise InvalidInput(
                "Transformer: `width` should be a multiple of `heads`. "
                f"Received: width={self.width}, heads={self.heads}"
            )

    def encode(self, features: Any, mask: Any) -> Any:
        """Return the mean over the activities and the newest position; see `Network`."""
        dense, norm = keras.layers.Dense, keras.layers.LayerNormalization
        x = dense(self.width, use_bias=False, name="projection")(features)
        x = Recency(name="recency")(x)
        for i in range(self.blocks):
            normed = norm(epsilon=1e-6, name=f"norm_attention_{i}")(x)
            x = x + SelfAttention(self.heads, name=f"attention_{i}")(normed, mask)
            normed = norm(epsilon=1e-6, name=f"norm_dense_{i}")(x)
            inner = dense(2 * self.width, activation="relu", name=f"dense_inner_{i}")(normed)
            x = x + dense(self.width, use_bias=False, name=f"dense_outer_{i}")(inner)
        return mean_and_newest(norm(epsilon=1e-6, name="norm")(x) * mask, mask)

    @classmethod
    def suggest_own(cls, trial: Any) -> dict[str, Any]:
        """Choose width and depth."""
        return {
            "width": trial.suggest_categorical("width", [32, 48, 64]),
            "heads": trial.suggest_categorical("heads", [2, 4]),
            "blocks": trial.suggest_int("blocks", 1, 2),
        }
