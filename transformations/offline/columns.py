"""Columns of a user's source under their own names, and under the names of this package.

`field_mapping` and `timestamp_field` of a Feast source say which is which. Feast applies them to
what its offline stores read; here they are applied to files and tables that are handed in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from feast import FeatureView

from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import require_columns
from activity_embeddings.transformations.errors import InvalidInput


@dataclass(frozen=True)
class RowsAsked:
    """Which rows of a source are asked for, and which columns.

    Attributes
    ----------
    columns
        Names in the source, by the names that the columns get; without the time.
    ids
        Those of them that hold ids. They come out as int64 or string.
    time
        The name that the time gets, timestamp[us, UTC].
    start, end
        Rows with `start <= t <= end`, microseconds since the epoch; without a start, from the first
        row on.
    optional
        Those of the columns that a source may lack.
    """

    columns: Mapping[str, str]
    ids: Sequence[str]
    time: str
    start: int | None
    end: int
    optional: Sequence[str] = ()

    def called(self, time: str) -> dict[str, str]:
        """Return what a source whose time is in this column calls the columns, by new names."""
        return {**self.columns, self.time: time}

    def there(self, columns: Collection[str], time: str) -> dict[str, str]:
        """Return the columns that a source with some columns has, and the time, by new names."""
        return {
            name: theirs
            for name, theirs in self.called(time).items()
            if name not in self.optional or theirs in columns
        }


def source_names(view: FeatureView, columns: Iterable[str]) -> dict[str, str]:
    """Return what the source of a view calls columns of ours, by our names.

    Parameters
    ----------
    view
        With a batch source.
    columns
        Our names; `event_timestamp` is the source's `timestamp_field`.
    """
    source = view.batch_source
    if source is None:
        raise InvalidInput(f"{view.name}: expected a view with a batch source. Received: none")
    theirs = {ours: column for column, ours in source.field_mapping.items()}
    theirs[names.EVENT_TIMESTAMP] = source.timestamp_field
    return {name: theirs.get(name, name) for name in columns}


def event_names(view: FeatureView) -> dict[str, str]:
    """Return what the source of a view of events calls their columns, by our names."""
    domain = names.DomainNames.of(view.tags)
    return source_names(view, (*domain.event_columns, names.EVENT_TIMESTAMP, domain.event_id))


def names_there(
    there: Sequence[str],
    called: Mapping[str, str],
    source: str,
    *,
    optional: Sequence[str] = (),
) -> dict[str, str]:
    """Return what a file or table calls the columns that are needed, by our names.

    The columns may have the names of the user's source, if all are there, or else ours.

    Parameters
    ----------
    there
        Names of the columns that it has.
    called
        What the source calls each column, by our names.
    source
        What errors call the file or table.
    optional
        Which of ours may be missing; they are then left out.

    Raises
    ------
    InvalidInput
        A column is missing under both names.
    """
    needed = [name for name in called if name not in optional]
    if not all(called[name] in there for name in needed):
        called = {name: name if name in there else theirs for name, theirs in called.items()}
    require_columns(there, [called[name] for name in needed], source)
    chosen = {ours: theirs for ours, theirs in called.items() if theirs in there}
    require_columns(there, chosen.values(), source)
    return chosen


def under_our_names(
    table: pa.Table,
    called: Mapping[str, str],
    source: str,
    *,
    optional: Sequence[str] = (),
) -> pa.Table:
    """Return a table with the columns that are needed, under our names; see `names_there`."""
    chosen = names_there(table.column_names, called, source, optional=optional)
    return pa.table({ours: table.column(theirs) for ours, theirs in chosen.items()})
