"""What rows hold, as one hash: the same in whatever files, batches or encodings they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def content_hash(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> str:
    """Return a hash of names, types, values and their order.

    Parameters
    ----------
    schema
        Of the rows.
    batches
        The rows, cut into batches anywhere.
    """
    columns: list[dict[str, Any]] = [{} for _ in schema]
    for batch in batches:
        for hashes, column in zip(columns, batch.columns, strict=True):
            _add(hashes, "", column)
    digest = hashlib.sha256()
    for field, hashes in zip(schema, columns, strict=True):
        digest.update(f"{field.name}\0{field.type}\0".encode())
        for part in sorted(hashes):
            digest.update(part.encode() + hashes[part].digest())
    return digest.hexdigest()[:32]


def _add(hashes: dict[str, Any], part: str, values: pa.Array) -> None:
    """Add values to the hashes of their parts: which are null, lengths, and the bytes themselves.

    Each part is hashed as one stream, so that where a batch ends leaves no trace.
    """

    def add(name: str, data: Any) -> None:
        hashes.setdefault(f"{part}.{name}", hashlib.sha256()).update(data)

    add("null", values.is_null().cast(pa.uint8()).to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_large_string(values.type):
        values = values.cast(pa.string())  # of a batch, which int32 offsets can hold
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.list_value_length(values).fill_null(0).cast(pa.int64())
        add("lengths", lengths.to_numpy(zero_copy_only=False).tobytes())
        _add(hashes, f"{part}.item", values.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        filled = values.fill_null(b"" if pa.types.is_binary(kind) else "")
        add("lengths", pc.binary_length(filled).cast(pa.int64()).to_numpy().tobytes())
        _, offsets, data = filled.buffers()
        ends = np.frombuffer(offsets, np.int32)[filled.offset : filled.offset + len(filled) + 1]
        if len(ends) and data is not None:
            add("values", memoryview(data)[int(ends[0]) : int(ends[-1])])
    else:
        numbers = values.view(pa.int64()) if pa.types.is_timestamp(kind) else values
        add("values", numbers.fill_null(0).to_numpy(zero_copy_only=False).tobytes())
