"""Item vectors at request time: from the table on disk, and newer items from the online store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore, FeatureView

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.kinds import kind_and_id, vectors_at
from activity_embeddings.transformations.definitions.kinds import KindViews
from activity_embeddings.transformations.definitions.tags import (
    has_string_ids,
    vector_spec_of,
    vector_table_of,
)
from activity_embeddings.transformations.errors import InvalidInput, quote
from activity_embeddings.transformations.online.protobuf import entity_keys
from activity_embeddings.transformations.online.stores import row_store_of
from activity_embeddings.transformations.online.vector_table import VectorTableReader
from activity_embeddings.transformations.times import to_us


def lookup_of(store: FeatureStore, kinds: Sequence[KindViews]) -> ItemVectorLookup | LookupOfKinds:
    """Return what looks items up as sequences of a domain with these kinds of activity name them.

    Parameters
    ----------
    store
        The feature store.
    kinds
        The kinds of activity.
    """
    of_kinds = {kind.name: ItemVectorLookup(store, kind.vectors) for kind in kinds}
    if len(kinds) == 1:
        return of_kinds[kinds[0].name]
    return LookupOfKinds(of_kinds)


class LookupOfKinds:
    """Item vectors of several kinds of activity, by ids that say their kind.

    Parameters
    ----------
    lookups
        Of each kind, by its name.
    """

    def __init__(self, lookups: Mapping[str, ItemVectorLookup]) -> None:
        self._lookups = lookups

    def __call__(self, item_ids: pa.Array) -> tuple[ItemVectors, np.ndarray]:
        """Look distinct, ascending ids up; see `request.VectorLookup`."""
        places: dict[str, list[int]] = {}
        texts: dict[str, list[str]] = {}
        for place, text in enumerate(item_ids.to_pylist()):
            kind, item_id = kind_and_id(text)
            places.setdefault(kind, []).append(place)
            texts.setdefault(kind, []).append(item_id)
        known = np.zeros(len(item_ids), dtype=bool)
        # Rows from before a kind was taken out may have ids of it, which are then unknown. Of no
        # ids at all, the vectors of one kind are none of the right length.
        asked = [kind for kind in self._lookups if kind in texts] or list(self._lookups)[:1]
        found = []
        for kind in asked:
            lookup = self._lookups[kind]
            ids = pa.array(texts.get(kind, []), pa.string()).cast(lookup.id_type)
            # As text they are in another order than integers.
            order = pc.sort_indices(ids)
            vectors, there = lookup(ids.take(order))
            place = np.array(places.get(kind, []), dtype=np.int64)[order.to_numpy()][there]
            known[place] = True
            found.append((vectors, place))
        if known.all():
            return vectors_at(item_ids, found), known
        # Places among the known ones.
        rank = np.cumsum(known) - 1
        among = [(vectors, rank[place]) for vectors, place in found]
        return vectors_at(item_ids.filter(pa.array(known)), among), known

    def map_table(self) -> None:
        """Map the tables into memory; otherwise the first look-up does."""
        for lookup in self._lookups.values():
            lookup.map_table()


class ItemVectorLookup:
    """Item vectors at request time: from the table, and newer items from the online store.

    Parameters
    ----------
    store
        The feature store.
    view
        The view of item vectors.
    """

    def __init__(self, store: FeatureStore, view: FeatureView) -> None:
        self._view, self._rows = view, row_store_of(store)
        self._embedding = vector_spec_of(view)
        self._table = VectorTableReader(vector_table_of(view, store.repo_path), self._embedding)

    @property
    def id_type(self) -> pa.DataType:
        """Type of the ids."""
        return pa.string() if has_string_ids(self._view) else pa.int64()

    def __call__(self, item_ids: pa.Array) -> tuple[ItemVectors, np.ndarray]:
        """Look distinct, ascending ids up; see `request.VectorLookup`."""
        table = self._table.table()
        codes = table.codes(item_ids.to_numpy(zero_copy_only=False))
        known = codes >= 0
        if known.all():
            return table.take(item_ids, codes, {}), known
        newer = self._read_online(item_ids, np.flatnonzero(~known))
        known[list(newer)] = True
        if known.all():
            return table.take(item_ids, codes, newer), known
        position = np.cumsum(known) - 1
        newer = {int(position[i]): found for i, found in newer.items()}
        return table.take(item_ids.filter(pa.array(known)), codes[known], newer), known

    def map_table(self) -> None:
        """Map the table into memory; otherwise the first look-up does."""
        self._table.table()

    def _read_online(
        self, item_ids: pa.Array, missing: np.ndarray
    ) -> dict[int, tuple[int, np.ndarray]]:
        """Return (time, vector) of the items that the online store has, in one read."""
        ids = item_ids.take(pa.array(missing))
        rows = self._rows.read(self._view, entity_keys(self._view, ids), [names.EMBEDDING])
        found = {}
        for position, item, (time, features) in zip(missing, ids, rows, strict=True):
            if time is None or features is None:
                continue
            vector = np.array(features[names.EMBEDDING].float_list_val.val, dtype=np.float32)
            if len(vector) != self._embedding.dimension:
                raise InvalidInput(
                    f"{self._view.name} (online): expected a vector of length "
                    f"{self._embedding.dimension} for item {quote(item.as_py())}. "
                    f"Received: length {len(vector)}"
                )
            found[int(position)] = (to_us(time), vector)
        return found
