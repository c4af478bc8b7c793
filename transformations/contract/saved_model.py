"""Read a SavedModel's signature without TensorFlow.

`feast apply` imports the feature repo on every command, and importing TensorFlow takes seconds.
The signature is a small part of `saved_model.pb`; this module declares just the protobuf fields
it needs, with the field numbers of TensorFlow's `saved_model.proto`, `meta_graph.proto` and
`tensor_shape.proto`, and lets the parser skip the rest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from activity_embeddings.transformations.errors import InvalidInput

SIGNATURE = "serving_default"
_DTYPES = (
    *("float32", "float64", "int32", "uint8", "int16", "int8", "string", "complex64", "int64"),
    *("bool", "qint8", "quint8", "qint32", "bfloat16", "qint16", "quint16", "uint16"),
    *("complex128", "float16", "resource", "variant", "uint32", "uint64", "float8_e5m2"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e5m2fnuz", "int4"),
    *("uint4", "int2", "uint2", "float4_e2m1fn"),
)
"""Names of the numbers of TensorFlow's `DataType`, from 1 on."""
_REFERENCE = 100
"""TensorFlow adds this to the number of a type for a reference to a tensor of that type."""


@dataclass(frozen=True)
class TensorSpec:
    """Type and shape of one input or output; None stands for a dimension that is not fixed."""

    dtype: str
    shape: tuple[int | None, ...] | None

    def accepts(self, wanted: TensorSpec) -> bool:
        """Whether an input declared so takes every batch of tensors like `wanted`.

        Both should leave the first dimension, the batch, open.
        """
        if self.dtype != wanted.dtype or self.shape is None or wanted.shape is None:
            return False
        return (
            len(self.shape) == len(wanted.shape)
            and self.shape[0] is None
            and all(
                ours in (None, theirs)
                for ours, theirs in zip(self.shape, wanted.shape, strict=True)
            )
        )

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of unknown rank"
        return f"{self.dtype} [{', '.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of `serving_default`, by name."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


def _message_class() -> type[message.Message]:
    """Build the message class of the few fields that are read."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="activity_embeddings/saved_model.proto",
        package="activity_embeddings",
        syntax="proto3",
    )
    messages: dict[str, list[tuple[str, int, Any, bool, str | None]]] = {
        "Dim": [("size", 1, field.TYPE_INT64, False, None)],
        "Shape": [
            ("dim", 2, field.TYPE_MESSAGE, True, "Dim"),
            ("unknown_rank", 3, field.TYPE_BOOL, False, None),
        ],
        "TensorInfo": [
            ("dtype", 2, field.TYPE_INT32, False, None),
            ("shape", 3, field.TYPE_MESSAGE, False, "Shape"),
        ],
        # A protobuf map is on the wire a repeated message of key and value.
        "NamedTensor": [
            ("key", 1, field.TYPE_STRING, False, None),
            ("value", 2, field.TYPE_MESSAGE, False, "TensorInfo"),
        ],
        "SignatureDef": [
            ("inputs", 1, field.TYPE_MESSAGE, True, "NamedTensor"),
            ("outputs", 2, field.TYPE_MESSAGE, True, "NamedTensor"),
        ],
        "NamedSignature": [
            ("key", 1, field.TYPE_STRING, False, None),
            ("value", 2, field.TYPE_MESSAGE, False, "SignatureDef"),
        ],
        "MetaGraph": [("signature_def", 5, field.TYPE_MESSAGE, True, "NamedSignature")],
        "SavedModel": [("meta_graphs", 2, field.TYPE_MESSAGE, True, "MetaGraph")],
    }
    for name, fields in messages.items():
        declared = file.message_type.add(name=name)
        for field_name, number, kind, repeated, type_name in fields:
            declared.field.add(
                name=field_name,
                number=number,
                type=kind,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
                type_name=f".activity_embeddings.{type_name}" if type_name else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("activity_embeddings.SavedModel")
    )


_SavedModel = _message_class()


def read_signature(
    path: Path, *, what: str = "model", declared: str = "its line in ACTIVITY_MODELS"
) -> Signature:
    """Return the `serving_default` signature of the SavedModel in folder `path`.

    Parameters
    ----------
    path
        The folder.
    what, declared
        What errors call the SavedModel, and the place where its path stands.

    Raises
    ------
    InvalidInput
        There is no SavedModel, it cannot be parsed, or it has no such signature.
    """
    file = path / "saved_model.pb"
    try:
        is_there = file.is_file()
    except (OSError, ValueError):  # a path that no file can have
        is_there = False
    if not is_there:
        raise InvalidInput(
            f"{what} {path}: expected a TensorFlow SavedModel. Received: no file {file.name}. "
            f"Package the {what} first, or correct {declared}"
        )
    try:
        parsed = _SavedModel.FromString(file.read_bytes())
    except message.DecodeError as error:
        raise InvalidInput(
            f"{what} {path}: expected a TensorFlow SavedModel. "
            f"Received: {file.name} cannot be parsed (corrupt file)"
        ) from error
    signatures = {
        entry.key: entry.value for graph in parsed.meta_graphs for entry in graph.signature_def
    }
    if SIGNATURE not in signatures:
        found = ", ".join(sorted(name for name in signatures if not name.startswith("__")))
        raise InvalidInput(
            f"{what} {path}: expected a signature {SIGNATURE!r}. "
            f"Received signatures: {found or 'none'}"
        )
    signature = signatures[SIGNATURE]
    return Signature(
        inputs={entry.key: _tensor_spec(entry.value) for entry in signature.inputs},
        outputs={entry.key: _tensor_spec(entry.value) for entry in signature.outputs},
    )


def _tensor_spec(info: message.Message) -> TensorSpec:
    dtype = _dtype_name(info.dtype)
    if info.shape.unknown_rank:
        return TensorSpec(dtype, None)
    return TensorSpec(dtype, tuple(None if dim.size < 0 else dim.size for dim in info.shape.dim))


def _dtype_name(number: int) -> str:
    """Return what TensorFlow calls a number of its `DataType`."""
    if 1 <= number <= len(_DTYPES):
        return _DTYPES[number - 1]
    if 1 <= number - _REFERENCE <= len(_DTYPES):
        return f"{_DTYPES[number - _REFERENCE - 1]}_ref"
    return f"unknown type {number}"


def fingerprint(path: Path) -> str:
    """Return a hash of the content that a SavedModel computes with: graph, variables, assets.

    Unlike TensorFlow's own fingerprint it has no random part and covers the variables, so a
    truncated or exchanged file shows.
    """
    digest = hashlib.sha256()
    files = [path / "saved_model.pb"]
    for folder in ("variables", "assets"):
        files += sorted(file for file in (path / folder).rglob("*") if file.is_file())
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
