"""The LiteRT file beside a SavedModel: the same model, for processes that spare TensorFlow.

Packaging converts a model, compares the two and keeps the file in `assets.extra`, where the
SavedModel's fingerprint does not cover it. The manifest holds its hash, and which of the two
computes batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activity_embeddings.transformations.contract.manifest import FOLDER
from activity_embeddings.transformations.errors import ModelMismatch, require_kinds

FACT = "litert"
"""Key of the manifest."""
FILE = FOLDER / "model.tflite"
LITERT, TENSORFLOW = "litert", "tensorflow"
"""What computes a model's vectors."""
SEQUENCES_TIMED = 512
"""Sequences of the batch whose seconds the manifest has."""


@dataclass(frozen=True)
class LiteRTFile:
    """A model that was converted at packaging.

    Attributes
    ----------
    path
        The file.
    hash
        Of its content, as the manifest had it.
    runs_batches
        Whether it computes batches too. Few models are slower so; those keep TensorFlow there.
    """

    path: Path
    hash: str
    runs_batches: bool

    @classmethod
    def of(cls, model: Path, manifest: Mapping[str, Any]) -> LiteRTFile | None:
        """Return the file of the SavedModel in folder `model`, None where it has none.

        Raises
        ------
        ModelMismatch
            It is gone, or another than the one that was packaged.
        """
        facts = manifest.get(FACT) or {}
        if "hash" not in facts:
            return None
        require_kinds(
            f"model {manifest['name']!r}: {FACT}",
            hash=(facts["hash"], str),
            runs_batches=(facts.get("runs_batches"), bool),
        )
        file = cls(model / FILE, facts["hash"], facts["runs_batches"])
        file.read(manifest["name"])
        return file

    def read(self, name: str) -> bytes:
        """Return the content, for the model `name`.

        Raises
        ------
        ModelMismatch
            It is gone, or another than the one that was packaged, as where the model was replaced
            since it was checked.
        """
        content = self.path.read_bytes() if self.path.is_file() else None
        received = None if content is None else hash_of(content)
        if content is None or received != self.hash:
            raise ModelMismatch(
                f"model {name!r}: {self.path} should be the file that was packaged, hash "
                f"{self.hash}. Received: "
                f"{'no file' if content is None else f'{received} (changed or corrupt file)'}"
            )
        return content


def seconds_of_one(manifest: Mapping[str, Any]) -> float | None:
    """Return what LiteRT took for a sequence at packaging; None where that was not measured."""
    seconds = (manifest.get(FACT) or {}).get("seconds_of_a_batch") or {}
    return seconds[LITERT] / SEQUENCES_TIMED if LITERT in seconds else None


def hash_of(content: bytes) -> str:
    """Return the hash of a LiteRT file's content."""
    return hashlib.sha256(content).hexdigest()[:16]


def why_tensorflow(manifest: Mapping[str, Any]) -> str:
    """Return why a model's batches run in TensorFlow, for people."""
    facts = manifest.get(FACT) or {}
    if "hash" in facts:
        return "LiteRT was slower when it was packaged"
    return facts.get("left_out") or "it was packaged without a LiteRT file"
