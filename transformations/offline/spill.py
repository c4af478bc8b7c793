"""Rows that do not fit into memory together: in one pass, written to files by ranges of members.

A sample of the rows says where the ranges begin. They are narrower than a part may be, so that
neighbours make up parts that are nearly full. A file that is too large for a part all the same, as
where the sample was of few members, is divided again by a sample of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from activity_embeddings.transformations.activity.member_range import MemberRange
from activity_embeddings.transformations.arrow import single_chunk
from activity_embeddings.transformations.errors import InvalidInput, first_line

SAMPLE_ROWS = 131_072
"""Rows of a sample: a hundredth of the members is met 1,300 times, give or take 3 %."""
FILES_A_PART = 4
MOST_FILES = 128
"""Files that are written side by side."""
_BYTES_A_ROW = 100
_TIMES_READ = 2

Part = tuple[MemberRange, Callable[[], pa.Table]]
"""A range of members, and what returns their rows, once."""


def memory_of(rows: int, table_bytes: float) -> float:
    """Return the bytes that events take at most while they are read and put in order.

    They were measured to take 143 each where an Arrow table has 34 of each, and 250 where it has
    99.

    Parameters
    ----------
    rows
        How many events.
    table_bytes
        What an Arrow table of them takes.
    """
    return _BYTES_A_ROW * rows + _TIMES_READ * table_bytes


def spilled_parts(
    tables: Iterable[pa.Table],
    member: str,
    *,
    sample: pa.Array,
    memory: float,
    budget: int,
    folder: Path,
    compression: str | None = "lz4",
) -> Generator[Part]:
    """Write rows to files, then yield them by ascending ranges of members, which cover all ids.

    Parameters
    ----------
    tables
        The rows, in tables of one schema; at least one.
    member
        Column of the ids of members, int64, string or binary.
    sample
        Some of these ids.
    memory
        What all rows take, see `memory_of`; more or less.
    budget
        What the rows of a range may take in bytes. One member is never divided.
    folder
        A folder of this machine. The files lie in one within it, which is gone in the end.
    compression
        Of the files, as `pyarrow.ipc.IpcWriteOptions` takes it.

    Raises
    ------
    InvalidInput
        The files cannot be written.
    """
    with _writable(folder), TemporaryDirectory(prefix="spilled-", dir=folder) as aside:
        options = pa.ipc.IpcWriteOptions(compression=compression)
        spill = _Spill(member, budget, Path(aside), options)
        yield from spill.parts(tables, MemberRange(), sample, memory)


@dataclass
class _File:
    """The rows of the members from `first` on and before those of the next file.

    There is no file where there are no rows.
    """

    path: Path
    first: pa.Scalar | None
    rows: int = 0
    table_bytes: int = 0
    members: set[Any] = field(default_factory=set)
    """The first and the last one that has rows."""

    @property
    def memory(self) -> float:
        return memory_of(self.rows, self.table_bytes)

    def count(self, table: pa.Table, ids: pa.Array) -> None:
        """Count rows that are added, whose ids are ascending."""
        self.rows += len(table)
        self.table_bytes += table.nbytes
        seen = self.members | {ids[0].as_py(), ids[-1].as_py()}
        self.members = {min(seen), max(seen)}


@dataclass
class _Spill:
    member: str
    budget: int
    folder: Path
    options: pa.ipc.IpcWriteOptions
    schema: pa.Schema = None
    made: int = 0

    def parts(
        self, tables: Iterable[pa.Table], within: MemberRange, sample: pa.Array, memory: float
    ) -> Iterator[Part]:
        """Yield the parts of rows whose members are all in a range."""
        count = min(max(2, ceil(FILES_A_PART * memory / self.budget)), MOST_FILES)
        files = self._write(tables, within, _bounds(sample, count))
        groups = self._grouped(files)
        ends = [*(group[0].first for group in groups[1:]), within.end]
        for group, end in zip(groups, ends, strict=True):
            members = MemberRange(group[0].first, end)
            file = group[0]
            if file.memory > self.budget and len(file.members) > 1:
                sample = self._sample(file)
                yield from self.parts(self._tables(file), members, sample, file.memory)
            else:
                yield members, partial(self._read, group)

    def _grouped(self, files: list[_File]) -> list[list[_File]]:
        """Put neighbours together that fit into the budget."""
        groups: list[list[_File]] = []
        free = 0.0
        for file in files:
            if not groups or file.memory > free:
                groups.append([])
                free = self.budget
            groups[-1].append(file)
            free -= file.memory
        return groups

    def _write(
        self, tables: Iterable[pa.Table], within: MemberRange, bounds: Sequence[pa.Scalar]
    ) -> list[_File]:
        """Write rows to files of ranges within one, which begin at its start and at the bounds."""
        files = []
        for first in (within.first, *bounds):
            self.made += 1
            files.append(_File(self.folder / f"{self.made}.arrow", first))
        firsts = [bound.as_py() for bound in bounds]
        writers: dict[Path, pa.ipc.RecordBatchFileWriter] = {}
        with ExitStack() as stack:
            for table in tables:
                self.schema = table.schema
                ids = single_chunk(table, self.member)
                order = pc.sort_indices(ids)
                table, ids = table.take(order), ids.take(order)
                starts = [bisect_left(ids, first, key=_value) for first in firsts]
                slices = pairwise([0, *starts, len(table)])
                for file, (start, end) in zip(files, slices, strict=True):
                    if start == end:
                        continue
                    if file.path not in writers:
                        writer = pa.ipc.new_file(file.path, table.schema, options=self.options)
                        writers[file.path] = stack.enter_context(writer)
                    rows = table.slice(start, end - start)
                    writers[file.path].write_table(rows)
                    file.count(rows, ids.slice(start, end - start))
        return files

    def _read(self, files: list[_File]) -> pa.Table:
        with _writable(self.folder.parent):
            tables = [self.schema.empty_table()]
            for file in files:
                tables += self._tables(file)
            return pa.concat_tables(tables)

    def _tables(self, file: _File) -> Iterator[pa.Table]:
        """Yield the rows of a file, and remove it."""
        if not file.rows:
            return
        with pa.OSFile(str(file.path)) as opened, pa.ipc.open_file(opened) as reader:
            for number in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(number)])
        file.path.unlink()

    def _sample(self, file: _File) -> pa.Array:
        """Return ids of members from all over a file, the first and the last one among them."""
        random = np.random.default_rng(file.rows)
        columns = pa.ipc.IpcReadOptions(included_fields=[self.schema.names.index(self.member)])
        sample = [pa.array(file.members, self.schema.field(self.member).type)]
        with (
            pa.OSFile(str(file.path)) as opened,
            pa.ipc.open_file(opened, options=columns) as reader,
        ):
            for number in range(reader.num_record_batches):
                (ids,) = reader.get_batch(number).columns
                taken = random.random(len(ids)) * file.rows < SAMPLE_ROWS
                sample.append(ids.filter(pa.array(taken)))
        return pa.concat_arrays(sample)


def _bounds(sample: pa.Array, count: int) -> list[pa.Scalar]:
    """Return where ranges begin, except the first, so that each has about as many rows.

    Of ids that differ, at least one: ranges within ranges come to an end.
    """
    ids = sample.take(pc.sort_indices(sample))
    places = np.linspace(0, len(ids), count, endpoint=False, dtype=np.int64)
    picked = ids.take(pa.array(places)).to_pylist()
    # A member of many rows is alone in its range, as far as ids tell.
    alone = {first for first, second in pairwise(picked) if first == second}
    after = {_next_id(member) for member in (*alone, picked[0]) if member != ids[-1].as_py()}
    return [pa.scalar(first, ids.type) for first in sorted({*picked, *after} - {picked[0]})]


def _value(scalar: pa.Scalar) -> Any:
    return scalar.as_py()


def _next_id(member: Any) -> Any:
    """Return the first id after one; ids of text have no NUL."""
    if isinstance(member, int):
        return member + 1
    return member + (b"\0" if isinstance(member, bytes) else "\1")


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"{folder}: expected a folder with room for the rows that are over the memory "
            f"budget. Received: {first_line(error)}"
        ) from error
