"""The judge between computing and committing: refuses to publish what is probably rubbish.

What a run has written aside is compared with the newest snapshot that is committed before it. A
source whose ids changed form, or whose last load is missing, gives rows that are right by every
check of a single value, and wrong as a whole: everybody is silent. Nothing is committed then.

Where there is nothing to compare with, as in a first run, that is said and nothing refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.repo_config import FeastConfigBaseModel
from pydantic import NonNegativeFloat, model_validator

from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import codes_of, single_chunk
from activity_embeddings.transformations.errors import GuardFailed
from activity_embeddings.transformations.times import to_datetime
from activity_embeddings.transformations.wording import counted, share, utc

FEWEST = 100
"""Members or rows below which a share says nothing."""
VECTORS = 10_000
"""Members whose vectors are compared, the first ones: what is wrong with vectors is so of all."""
TURNED = 0.5
"""A vector has turned whose cosine with the one before is below this: by more than 60 degrees."""


class Guard(FeastConfigBaseModel):
    """One guard, under its name in `guards`."""

    limit: NonNegativeFloat
    """What is still accepted; a share unless the guard says otherwise."""

    action: Literal["fail", "warn", "ignore"] = "fail"
    """What happens past it: nothing is published, or it is said, or nothing."""


class Guards(FeastConfigBaseModel):
    """Settings under `batch_engine.guards` in feature_store.yaml, each with its default.

    All compare the newest snapshot of a run with the newest one that was committed before it, but
    for `unknown_items`.
    """

    unknown_items: Guard = Guard(limit=0.5)
    """Share of the activity in the window that is on items without a vector."""

    members: Guard = Guard(limit=0.5)
    """How many members with activity there are more or fewer, as a share of those before."""

    activities: Guard = Guard(limit=0.5)
    """How many activities their sequences hold more or fewer, as a share of those before."""

    silent_members: Guard = Guard(limit=0.5)
    """Share of the members with activity before who have none now."""

    norms: Guard = Guard(limit=1.0)
    """How much longer or shorter vectors are at the median, as a share of the length before."""

    turned_rows: Guard = Guard(limit=0.5, action="warn")
    """Share of the members with a vector before and now whose vector has turned by over 60
    degrees."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """Let a setting name a limit or an action alone."""
        if not isinstance(given, Mapping):
            return given
        defaults = {name: field.default.model_dump() for name, field in cls.model_fields.items()}
        return {
            name: {**defaults.get(name, {}), **value} if isinstance(value, Mapping) else value
            for name, value in given.items()
        }


@dataclass(frozen=True)
class Verdict:
    """What a guard says.

    Attributes
    ----------
    guard
        Its name.
    view
        Whose rows.
    action
        What happens past the limit.
    limit, received
        What is accepted, and what was found.
    says
        What was found, in words.
    examples
        What ids look like, where that may be the cause. No record keeps it.
    accepted
        Whether the caller lets it through.
    """

    guard: str
    view: str
    action: str
    limit: float
    received: float
    says: str
    examples: str = ""
    accepted: bool = False

    @property
    def passed(self) -> bool:
        """Whether it is within the limit."""
        return self.received <= self.limit

    @property
    def said(self) -> bool:
        """Whether it is worth a line of the report."""
        return not self.passed and self.action != "ignore"

    @property
    def refused(self) -> bool:
        """Whether nothing is to be published."""
        return not self.passed and self.action == "fail" and not self.accepted

    def facts(self) -> dict[str, Any]:
        """Return what the record of a run keeps."""
        return {k: v for k, v in asdict(self).items() if k != "examples"} | {"passed": self.passed}

    def __str__(self) -> str:
        outcome = "accepted" if self.accepted else "refused" if self.refused else "warning"
        found = f"{self.says}{self.examples}"
        return f"{self.guard}: {found}; expected at most {_percent(self.limit)} ({outcome})"


@dataclass(frozen=True)
class Judge:
    """Judges the newest snapshot of a run.

    Parameters
    ----------
    guards
        The settings.
    accepted
        Names of guards that the caller lets through.
    """

    guards: Guards
    accepted: frozenset[str]

    def unknown_items(
        self, view: str, positions: int, unknown: int, *, kind: str = ""
    ) -> Iterator[Verdict]:
        """Judge the activity in the windows, by how many are on known and on unknown items.

        Of several kinds of activity, that of a kind is judged by itself, too.
        """
        if positions + unknown >= FEWEST:
            part = share(unknown, positions + unknown)
            what = f"{kind} activity" if kind else "activity"
            says = f"{part} of the {what} in the windows is on unknown items"
            yield self._verdict("unknown_items", view, unknown / (positions + unknown), says)

    def sequences(self, view: str, key: str, now: pa.Table, then: pa.Table) -> Iterator[Verdict]:
        """Judge sequences.

        Parameters
        ----------
        view
            Whose rows.
        key
            Name of the column of member ids.
        now, then
            That column and `activity_count` of the two snapshots.
        """
        active_now, active_then = (with_activity(table) for table in (now, then))
        if len(active_then) < FEWEST:
            return
        for guard, noun, new, old in (
            ("members", "member with activity", len(active_now), len(active_then)),
            ("activities", "activity", _activities(active_now), _activities(active_then)),
        ):
            says = f"{counted(new, noun, _MANY.get(noun))}, {old:,} before"
            yield self._verdict(guard, view, abs(new - old) / old, says)
        ids_now, ids_then = single_chunk(active_now, key), single_chunk(active_then, key)
        still = codes_of(ids_then, ids_now) >= 0
        silent = int((~still).sum())
        says = f"{silent:,} of {len(still):,} members with activity before have none now"
        examples = ""
        if len(ids_now) and not still.any():
            examples = f"; ids are such as {ids_now[0].as_py()!r}, before {ids_then[0].as_py()!r}"
        yield self._verdict("silent_members", view, silent / len(still), says, examples)

    def vectors(
        self, view: str, key: str, outputs: Sequence[str], now: pa.Table, then: pa.Table
    ) -> Iterator[Verdict]:
        """Judge embeddings: their lengths, and how many have turned."""
        ids_now, ids_then = single_chunk(now, key), single_chunk(then, key)
        place = codes_of(ids_now, ids_then)
        for output in outputs:
            new, old = (_matrix(table, output) for table in (now, then))
            if new.shape[1:] != old.shape[1:]:
                continue
            lengths_new, lengths_old = (np.linalg.norm(each, axis=1) for each in (new, old))
            if min((lengths_new > 0).sum(), (lengths_old > 0).sum()) < FEWEST:
                continue
            middle_new, middle_old = (
                float(np.median(each[each > 0])) for each in (lengths_new, lengths_old)
            )
            larger, smaller = max(middle_new, middle_old), min(middle_new, middle_old)
            says = f"median length of {output} is {middle_new:.4g}, {middle_old:.4g} before"
            yield self._verdict("norms", view, larger / smaller - 1, says)
            both = np.flatnonzero(place >= 0)
            both = both[(lengths_new[both] > 0) & (lengths_old[place[both]] > 0)]
            if len(both) < FEWEST:
                continue
            cosine = np.einsum("nd,nd->n", new[both], old[place[both]]) / (
                lengths_new[both] * lengths_old[place[both]]
            )
            turned = int((cosine < TURNED).sum())
            says = f"{output} of {turned:,} of {len(both):,} members has turned by over 60 degrees"
            yield self._verdict("turned_rows", view, turned / len(both), says)

    def _verdict(
        self, guard: str, view: str, received: float, says: str, examples: str = ""
    ) -> Verdict:
        setting: Guard = getattr(self.guards, guard)
        accepted = guard in self.accepted and received > setting.limit
        return Verdict(
            guard, view, setting.action, setting.limit, received, says, examples, accepted
        )


_MANY = {"member with activity": "members with activity", "activity": "activities"}


def require_passed(verdicts: Sequence[Verdict], as_of: int, *, committed: int = 0) -> None:
    """Raise `GuardFailed` where a guard refuses.

    Parameters
    ----------
    verdicts
        What the guards say of the snapshot as of `as_of`.
    as_of
        Microseconds.
    committed
        Files of earlier parts of the run, which are committed.
    """
    refused = [verdict for verdict in verdicts if verdict.refused]
    if refused:
        found = "; ".join(
            f"{v.view}: {v.says}{v.examples}, at most {_percent(v.limit)} expected" for v in refused
        )
        published = "Nothing was published"
        if committed:
            published = f"{counted(committed, 'file')} of parts before it stay committed"
        accept = " ".join(f"--accept {name}" for name in dict.fromkeys(v.guard for v in refused))
        raise GuardFailed(
            f"snapshot as of {utc(to_datetime(as_of))}: {found}. {published}. If this is right, "
            f"run `activity-embeddings materialize` with {accept}, or set `guards` under "
            "`batch_engine`"
        )


def _percent(limit: float) -> str:
    return f"{100 * limit:g} %"


def with_activity(table: pa.Table) -> pa.Table:
    """Return the rows of sequences that hold any activity."""
    return table.filter(pc.greater(table.column(names.ACTIVITY_COUNT), 0))


def _activities(table: pa.Table) -> int:
    return int(pc.sum(table.column(names.ACTIVITY_COUNT)).as_py() or 0)


def _matrix(table: pa.Table, column: str) -> np.ndarray:
    """Return a column of vectors as float32 [n, d]."""
    vectors = single_chunk(table, column)
    values = vectors.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(vectors), -1) if len(vectors) else values.reshape(0, 0)
