"""Rows of stores whose layout is known here: published without Feast's loop over values."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import pyarrow as pa
from feast import FeatureView

from activity_embeddings.transformations.feast_compat.stores import KEY_VERSION, writes_as
from activity_embeddings.transformations.online.any_store import AnyRows
from activity_embeddings.transformations.online.base import KeepMerge
from activity_embeddings.transformations.online.protobuf import feast_rows


class BulkRows(AnyRows):
    """A `RowStore` that publishes bytes where they are the ones that Feast would write.

    They are not where the store's class writes in a way of its own, or settings change what is
    written. Feast's own call is taken there.
    """

    feast_store: str
    """Path of the class of Feast whose rows these are."""

    def publish(
        self, view: FeatureView, batch: pa.RecordBatch, keep: KeepMerge | None = None
    ) -> None:
        """See `RowStore.publish`."""
        if (
            self.config.entity_key_serialization_version != KEY_VERSION
            or not writes_as(self._store, self.feast_store)
            or not self._knows_layout(view)
        ):
            super().publish(view, batch, keep)
            return
        with self._alone():
            left = self._put(view, batch, keep)
            if keep is not None and left.any():
                rows = feast_rows(view, batch.filter(pa.array(left)))
                for start in range(0, len(rows), self.at_once):
                    part = rows[start : start + self.at_once]
                    self._merge(view, [key for key, *_ in part], part, keep)

    @abstractmethod
    def _knows_layout(self, view: FeatureView) -> bool:
        """Return whether a view's rows lie in the store as this class writes them."""

    @abstractmethod
    def _put(self, view: FeatureView, batch: pa.RecordBatch, keep: KeepMerge | None) -> np.ndarray:
        """Write the rows of a batch; return which, bool [n], were not, since `keep` may need them.

        Parameters
        ----------
        view, batch, keep
            As those of `publish`.
        """
