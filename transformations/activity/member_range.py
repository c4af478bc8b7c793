"""A range of member ids: the members whose rows are computed together."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class MemberRange:
    """The ids from `first` on, and before `end`.

    Attributes
    ----------
    first, end
        Arrow scalars of the type of the ids; None: there is no limit.
    """

    first: pa.Scalar | None = None
    end: pa.Scalar | None = None

    def of(self, ids: pa.Array) -> pa.Array:
        """Return those of some ids, in their order; of no ids, whatever their type, none."""
        if not len(ids):
            return ids
        if self.first is not None:
            ids = ids.filter(pc.greater_equal(ids, self.first))
        return ids if self.end is None else ids.filter(pc.less(ids, self.end))


EVERYBODY = MemberRange()
