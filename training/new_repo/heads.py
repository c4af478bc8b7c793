"""What a user's files hold, from their first rows: a proposal that the user can correct.

Only footers and the first rows are read, so that a large file costs no more than a small one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from feast import FileSource

from activity_embeddings.training.new_repo.settings import Content, IdType
from activity_embeddings.transformations.arrow import is_text
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.names import is_identifier
from activity_embeddings.transformations.offline.parquet_files import ParquetFiles

ROWS = 100_000
"""Rows that are looked at."""
MOST_ACTIONS = 50
"""A column with more distinct values in the head is not taken for the actions."""

_MEMBER = ("member", "user", "customer", "visitor", "account", "profile", "person", "learner")
_ITEM = ("job", "item", "product", "course", "article", "posting", "film", "movie", "video", "sku")
_ACTION = ("action", "event_type", "verb", "event_name", "interaction", "activity", "type", "event")
_TIME = ("event_timestamp", "timestamp", "time", "ts", "created", "date", "at")
_NEGATIVE = re.compile(
    r"dismiss|skip|reject|dislike|ignore|remove|delete|discard|declin|withdr|abandon|cancel|refund"
    r"|un(save|like|follow|subscrib|install|favo|bookmark|enrol)|downvote"
    r"|(?<![a-z])(hid|not?(?![a-z])|down(?!load)|drop|report|block(?!buster|chain)"
    r"|mut(e[ds]?|ing)(?![a-z])|return(?!ing|.?visit))",
    re.IGNORECASE,
)
"""What a refusal sounds like. Short words count at the start of a word alone: orchid, unblock."""


@dataclass(frozen=True)
class Head:
    """The first rows of a source.

    Attributes
    ----------
    path
        File or folder.
    table
        At most `ROWS` rows, all columns.
    """

    path: Path
    table: pa.Table

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.table.column_names

    def type_of(self, column: str) -> pa.DataType:
        """Return the type of a column; of dictionaries, that of their values."""
        kind = self.table.schema.field(column).type
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    def require(self, column: str, option: str) -> str:
        """Return a column that the user named, after checking that it is there.

        Raises
        ------
        InvalidInput
            It is not.
        """
        if column not in self.columns:
            raise InvalidInput(
                f"{option} {column}: expected a column of {self.path}. Received columns: "
                f"{', '.join(self.columns)}"
            )
        return column

    def id_type(self, column: str) -> IdType:
        """Return whether a column holds integers or text.

        Raises
        ------
        InvalidInput
            It holds neither.
        """
        kind = self.type_of(column)
        if pa.types.is_integer(kind):
            return "int"
        if is_text(kind):
            return "string"
        raise InvalidInput(
            f"{self.path}: column {column!r} should hold ids, int64 or string. Received: {kind}"
        )

    def require_text(self, column: str, what: str) -> None:
        """Raise `InvalidInput` unless a column is text."""
        if not self._text(column):
            raise InvalidInput(
                f"{self.path}: column {column!r} should hold {what}, string. "
                f"Received: {self.type_of(column)}"
            )

    def ids(self) -> list[str]:
        """Return the columns that can hold ids."""
        return [c for c in self.columns if pa.types.is_integer(self.type_of(c)) or self._text(c)]

    def times(self) -> list[str]:
        """Return the columns that are times with a zone."""
        return [
            c
            for c in self.columns
            if pa.types.is_timestamp(self.type_of(c)) and self.type_of(c).tz is not None
        ]

    def values(self, column: str) -> list[str]:
        """Return the distinct texts of a column, the most frequent first, then by name."""
        texts = self.table.column(column)
        if pa.types.is_dictionary(texts.type):
            texts = texts.cast(texts.type.value_type)
        counts = pc.value_counts(texts.drop_null().combine_chunks()).to_pylist()
        return [c["values"] for c in sorted(counts, key=lambda c: (-c["counts"], c["values"]))]

    def actions_columns(self) -> list[str]:
        """Return the columns of text with few distinct values."""
        return [c for c in self.columns if self._text(c) and len(self.values(c)) <= MOST_ACTIONS]

    def vectors(self) -> dict[str, int]:
        """Return the columns that are lists of floats, with the length of the first one."""
        found = {}
        for column in self.columns:
            kind = self.type_of(column)
            if not _is_list(kind) or not pa.types.is_floating(kind.value_type):
                continue
            first = self.table.column(column).drop_null().slice(0, 1).to_pylist()
            if first and first[0]:
                found[column] = len(first[0])
        return found

    def contents(self, without: Iterable[str]) -> list[Content]:
        """Return the columns that an item encoder could read, with their types in Feast."""
        left_out = set(without)
        return [
            Content(column, kind)
            for column in self.columns
            if column not in left_out and (kind := _feast_type(self.type_of(column)))
        ]

    def _text(self, column: str) -> bool:
        return is_text(self.type_of(column))


def read_head(path: Path) -> Head:
    """Return the first rows of a parquet file, or of the first file of a folder that has rows.

    Raises
    ------
    InvalidInput
        There is none, or `feast materialize` could not read one of them.
    """
    return Head(path, _files(path).head(ROWS))


def other_actions(path: Path, column: str, actions: Collection[str]) -> list[str]:
    """Return the actions in the first rows of a source that are none of those."""
    return [action for action in read_head(path).values(column) if action not in actions]


def last_time(path: Path, column: str) -> int | None:
    """Return the newest time of a source in microseconds since the epoch, None if it is untold."""
    return _files(path, column).latest()


def _files(path: Path, time: str = "") -> ParquetFiles:
    """Return the files of a source that `feast materialize` will read."""
    return ParquetFiles(FileSource(path=str(path), timestamp_field=time), None, str(path))


# Where no column of a suitable type is found, the one whose name is known is taken: the error then
# says what is wrong with its type, and not that it is missing.


def member_column(head: Head) -> str | None:
    """Return the column that seems to hold who acts."""
    return _best(head.ids(), _MEMBER) or only(_named(head.columns, _MEMBER))


def item_column(head: Head, member: str | None = None, items: Head | None = None) -> str | None:
    """Return the column that seems to hold what was acted on.

    Parameters
    ----------
    head
        Of the events.
    member
        The column of who acts.
    items
        Of the vectors or postings. Where no name is known, the one column of ids that both have.
    """
    there = [] if items is None else [_plain(column) for column in items.ids()]
    ids = [c for c in head.ids() if c != member]
    return (
        _best(ids, _ITEM)
        or only([c for c in ids if _plain(c) in there])
        or only(_named([c for c in head.columns if c != member], _ITEM))
    )


def described_item_column(head: Head, item_id: str) -> str | None:
    """Return the column of vectors or postings that seems to hold the item.

    Parameters
    ----------
    head
        Of the vectors or postings.
    item_id
        What the events call it; the same name may be spelled otherwise, as `JobId` and `job_id`.
    """
    if item_id in head.columns:
        return item_id
    same = only([c for c in head.columns if _plain(c) == _plain(item_id)])
    return same or item_column(head) or only(head.ids())


def action_column(head: Head, others: Sequence[str | None] = ()) -> str | None:
    """Return the column that seems to hold what was done."""
    found = _best([c for c in head.actions_columns() if c not in others], _ACTION)
    wrong = [c for c in head.columns if c not in others and not is_text(head.type_of(c))]
    return found or only([c for c in wrong if c.lower() in _ACTION])


def time_column_of(head: Head) -> str | None:
    """Return the column that seems to hold when it was done."""
    times = head.times()
    if times:
        return _best(times, _TIME) or only(times)
    days = [c for c in head.columns if _is_day(head.type_of(c))]
    named = [c for c in head.columns if _best([c], _TIME)]
    return _best(days, _TIME) or only(days) or only(named)


def positive_actions(actions: Sequence[str]) -> list[str]:
    """Return the actions that do not sound like a refusal; all, if every one does."""
    return [a for a in actions if not _NEGATIVE.search(a)] or list(actions)


def item_name(column: str) -> str:
    """Return what the items are called, by the column of their ids: `job_id` gives `job`."""
    name = re.sub(r"_?(id|ids|key|no|number|code)$", "", column, flags=re.IGNORECASE)
    name = re.sub(r"\W", "_", name).strip("_").lower()
    return name if is_identifier(name) else "item"


def only(columns: Collection[str]) -> str | None:
    """Return a column where it is the only one."""
    return next(iter(columns)) if len(columns) == 1 else None


def _best(columns: Sequence[str], words: Sequence[str]) -> str | None:
    """Return the column whose name has the first of the words; whole names first."""
    for word in words:
        for column in _named(columns, [word]):
            return column
    for word in words:
        for column in columns:
            if word in re.split(r"[^a-z0-9]+", column.lower()):
                return column
    return None


def _named(columns: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the columns whose name is one of the words, or the id of one."""
    names = {name for word in words for name in (word, f"{word}_id", f"{word}id")}
    return [column for column in columns if column.lower() in names]


def _plain(column: str) -> str:
    """Return a name without what its spelling adds: `JobId` and `job_id` are the same."""
    return re.sub(r"[\W_]", "", column).lower()


def _is_day(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _feast_type(kind: pa.DataType) -> str | None:
    """Return the Feast type of a column that an item encoder may read; None for any other."""
    if is_text(kind):
        return "String"
    if pa.types.is_integer(kind):
        return "Int64"
    if pa.types.is_floating(kind):
        return "Float32"
    if _is_list(kind) and is_text(kind.value_type):
        return "Array(String)"
    return None
