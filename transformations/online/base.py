"""Rows of the online store: how they are read, replaced, and merged with what others wrote.

Feast's online stores write a row whole, whatever it held. Whoever adds to a row must read it first,
and another writer may come in between. A `RowStore` keeps that out as well as its store can; the
modules beside this one hold one for each kind of store, and `stores` chooses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias, TypeVar

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

Row: TypeAlias = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
"""Key, values by feature, event time and created time: what Feast's online stores write."""

Stored: TypeAlias = tuple[datetime | None, Mapping[str, Value] | None]
"""Event time and values of a row; None and None for a missing one. Feast's sqlite store keeps whole
seconds of the time."""

Given = TypeVar("Given")
Taken = TypeVar("Taken", contravariant=True)


class RowMerge(Protocol[Taken]):
    """Makes the row to write from what a writer gives for a key and what is stored there."""

    def merge(self, given: Sequence[Taken], stored: Sequence[Stored]) -> Sequence[Row | None]:
        """Return the rows to write, None for a stored one that should stay as it is.

        Called again for the rows that another writer changed in between, so that the result should
        not depend on earlier calls.

        Parameters
        ----------
        given
            What the writer gives for n keys.
        stored
            The n rows that the store holds now.
        """


class KeepMerge(RowMerge[Row], Protocol):
    """Merges rows that are published, as of some time, with the few stored ones that hold more.

    These have a later event time. The others may be replaced, and `merge` not be called.
    """

    @property
    def decided_by(self) -> str:
        """The feature, of every row, by which `needs` decides."""

    def needs(self, as_of: int, value: Value) -> bool:
        """Return whether a stored row whose feature `decided_by` has this value may hold more.

        Parameters
        ----------
        as_of
            Event time of the row that is to be published, microseconds.
        value
            The stored one.
        """


class RowStore(Protocol):
    """The online store of a feature repo, as the batch, the push and a server use it."""

    @property
    def config(self) -> RepoConfig:
        """The configuration of the feature repo."""

    @property
    def ordered(self) -> bool:
        """Whether the store keeps rows in the order of their keys, and takes them faster in it."""

    @property
    def remote(self) -> bool:
        """Whether processes of other machines can write to the store, and several at once."""

    def prepare(self, views: Sequence[FeatureView]) -> None:
        """Make ready for rows of these views; does nothing where that has been done."""

    def read(
        self, view: FeatureView, keys: Sequence[EntityKey], features: Sequence[str] | None = None
    ) -> list[Stored]:
        """Return the rows of n keys, and (None, None) for each missing one.

        Parameters
        ----------
        view
            Whose rows.
        keys
            n keys, see `entity_keys`.
        features
            Which features; None: all of them.
        """

    def write(self, view: FeatureView, rows: Sequence[Row]) -> None:
        """Put rows into the place of stored ones, newer ones too."""

    def publish(
        self, view: FeatureView, batch: pa.RecordBatch, keep: KeepMerge | None = None
    ) -> None:
        """Put the rows of a batch into the place of stored ones.

        Readers of sqlite wait, and other stores take memory, for all of them at once.

        Parameters
        ----------
        view
            Whose rows.
        batch
            The join key, every feature, event times and, if the rows have them, created times.
        keep
            Merges rows with what is stored; None: they replace it.
        """

    def delete(self, rows: Sequence[tuple[FeatureView, Sequence[EntityKey]]]) -> int:
        """Take rows out of the store, so that none of their bytes is left; return how many.

        Parameters
        ----------
        rows
            Keys of rows of each view; none only asks whether the store can.

        Raises
        ------
        InvalidInput
            The store has no way to that is known here; Feast itself has none.
        """

    def update(
        self,
        view: FeatureView,
        keys: Sequence[EntityKey],
        given: Sequence[Given],
        merge: RowMerge[Given],
    ) -> None:
        """Replace rows by what is merged from them.

        Parameters
        ----------
        view
            Whose rows. A row that `merge` returns should hold every feature of it.
        keys
            n distinct keys.
        given
            What the writer gives for each.
        merge
            Makes the new rows.

        Raises
        ------
        InvalidInput
            Other writers changed rows in each of many rounds (Redis). The other rows are written.
        """
