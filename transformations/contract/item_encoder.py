"""The contract of an item encoder: a TensorFlow SavedModel from an item's content to its vector.

`serving_default` takes, by name, columns of the view of postings: scalars as string, int64 or
float32 [batch], lists of text as string [batch, n] padded with "". `job_id` may be among them. Its
one output is `embedding` float32 [batch, d].

A manifest in the SavedModel's `assets.extra` says which vectors these are, and since when they can
be known. Nothing here imports TensorFlow: an encoder is checked on every `feast` command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from activity_embeddings.transformations import names
from activity_embeddings.transformations.artifacts import Location, is_url, local_folder
from activity_embeddings.transformations.contract.manifest import ManifestKind
from activity_embeddings.transformations.contract.saved_model import (
    Signature,
    TensorSpec,
    fingerprint,
    read_signature,
)
from activity_embeddings.transformations.errors import InvalidInput, quote
from activity_embeddings.transformations.spec import (
    LONGEST_VECTOR,
    ItemVectorSpec,
    require_version,
)
from activity_embeddings.transformations.times import Time, parse_datetime, to_datetime, to_us
from activity_embeddings.transformations.wording import utc

MANIFEST = ManifestKind(
    "item encoder",
    "item_encoder.json",
    {"name": str, "version": str, "valid_from": str},
    {"description": str},
)
SCALAR_TYPES = ("string", "int64", "float32")
_SHAPES = {("string", 2), *((dtype, 1) for dtype in SCALAR_TYPES)}


@dataclass(frozen=True)
class ItemEncoderDescription:
    """An item encoder that was found, read and checked.

    Attributes
    ----------
    name, version
        Name and version of the vectors that it makes.
    path
        Its folder on this machine.
    location
        Where it was said to lie: a path or a URL.
    dimension
        Length of a vector.
    inputs
        dict of column name to type and shape; a second dimension is that of a list.
    valid_from
        Microseconds since the epoch: the end of the data that it was fitted on. No vector of it is
        known earlier.
    fingerprint
        Hash of the SavedModel's content.
    manifest
        dict. The manifest as read.
    """

    name: str
    version: str
    path: Path
    location: Location
    dimension: int
    inputs: dict[str, TensorSpec]
    valid_from: int
    fingerprint: str
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vector_spec(self) -> ItemVectorSpec:
        """Which item vectors this encoder makes, as models are checked against it."""
        return ItemVectorSpec(self.name, self.version, self.dimension, self.fingerprint)

    def content_columns(self, item_id: str = names.ITEM_ID) -> list[str]:
        """Return the columns of a posting that the encoder reads, beside the item's id."""
        return [name for name in self.inputs if name != item_id]

    def facts(self) -> dict[str, Any]:
        """Return what vectors record of the encoder that made them, as JSON values."""
        return {
            "vector_spec": self.vector_spec.to_dict(),
            "valid_from": to_datetime(self.valid_from).isoformat(),
        }

    def summary(self) -> str:
        """Return one line for people: name, version, inputs and output."""
        return (
            f"{self.name} version {self.version} ({self.fingerprint}), valid from "
            f"{utc(to_datetime(self.valid_from))}: "
            f"{', '.join(self.inputs)} -> {names.EMBEDDING}[{self.dimension}]"
        )


def describe_item_encoder(path: str | Path) -> ItemEncoderDescription:
    """Read and check the item encoder in folder `path`, or at that URL.

    Raises
    ------
    InvalidInput
        There is no SavedModel with a manifest, it cannot be read, or it does not keep the contract.
        The message names the encoder.
    """
    location: Location = path if is_url(path) else Path(path)
    path = local_folder(path)
    signature = read_signature(path, what=MANIFEST.what, declared="ITEM_ENCODER")
    manifest = MANIFEST.read(path)
    if not manifest:
        raise InvalidInput(
            f"item encoder {path}: expected a manifest {MANIFEST.file}. Received: none. Package "
            "the encoder with `activity_embeddings.package_item_encoder`"
        )
    name = MANIFEST.require_name(manifest["name"], path, origin="the manifest")
    content = fingerprint(path)
    MANIFEST.require_unchanged(manifest, path, content)
    version = require_version(manifest["version"], f"item encoder {name!r}")
    return ItemEncoderDescription(
        name=name,
        version=version,
        path=path,
        location=location,
        dimension=_check_output(name, signature),
        inputs=_check_inputs(name, signature),
        valid_from=_parse_valid_from(name, manifest["valid_from"]),
        fingerprint=content,
        manifest=manifest,
    )


def write_encoder_manifest(
    path: Path, *, name: str, version: str, valid_from: Time, **facts: Any
) -> dict[str, Any]:
    """Write the manifest of the item encoder in `path`; `facts` are JSON values of your own.

    Customary facts: `description`, `training` (range and counts), `metrics`, `parameters`.

    Raises
    ------
    InvalidInput
        `valid_from` is no time, see `times.Time`, or has no zone.
    """
    moment = parse_datetime(valid_from, f"item encoder {name!r}: `valid_from`", zone=True)
    stated = {"name": name, "version": version, "valid_from": moment.isoformat()}
    return MANIFEST.write(path, {**stated, **facts})


def _check_inputs(name: str, signature: Signature) -> dict[str, TensorSpec]:
    """Return the inputs by name, after checking types and shapes."""
    if not signature.inputs:
        raise InvalidInput(
            f"item encoder {name!r}: expected inputs named like columns of the postings. "
            "Received: none"
        )
    for column, tensor in sorted(signature.inputs.items()):
        shape = tensor.shape
        if shape is None or (tensor.dtype, len(shape)) not in _SHAPES or set(shape) != {None}:
            raise InvalidInput(
                f"item encoder {name!r}: input {column!r} should be {', '.join(SCALAR_TYPES)} [?], "
                f"or string [?, ?] for a list. Received: {tensor}"
            )
    return dict(sorted(signature.inputs.items()))


def _check_output(name: str, signature: Signature) -> int:
    """Return the length of a vector, after checking name, type and shape."""
    match signature.outputs:
        case {names.EMBEDDING: TensorSpec("float32", (None, int(size))), **others} if (
            0 < size <= LONGEST_VECTOR and not others
        ):
            return size
    received = ", ".join(f"{output} {tensor}" for output, tensor in signature.outputs.items())
    raise InvalidInput(
        f"item encoder {name!r}: expected one output {names.EMBEDDING!r}, float32 [?, d] with a "
        f"fixed length d of at most {LONGEST_VECTOR:,}. Received: {received or 'none'}"
    )


def _parse_valid_from(name: str, text: Any) -> int:
    """Return the manifest's `valid_from` as microseconds since the epoch."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidInput(
            f"item encoder {name!r}: `valid_from` should be an ISO 8601 time with its zone, as "
            f"2024-03-01T00:00:00+00:00. Received: {quote(text)}"
        )
    return to_us(moment)
