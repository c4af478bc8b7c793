"""What a run over snapshots did, for people and for its record."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from activity_embeddings.transformations.batch.guards import Verdict
from activity_embeddings.transformations.batch.seconds import Seconds
from activity_embeddings.transformations.times import to_datetime
from activity_embeddings.transformations.wording import counted, passed_over, share, utc


@dataclass
class ViewReport:
    """What a run did to one view, or what it would do.

    Attributes
    ----------
    version
        Of the view: of its model or item encoder, or of the user's vectors.
    rows
        Written offline, of snapshots that are new or changed.
    replaced
        That were there in place of these.
    expired
        As-of times of snapshots that were older than the kept history needs.
    expired_rows
        Of these.
    pushed_rows, pushed_values
        Written online.
    """

    version: str
    rows: int = 0
    replaced: int = 0
    expired: list[int] = field(default_factory=list)
    expired_rows: int = 0
    pushed_rows: int = 0
    pushed_values: int = 0


@dataclass
class MaterializeReport:
    """What a run did, in numbers a person can read."""

    events: int = 0
    duplicates: int = 0
    other_actions: int = 0
    positions: int = 0
    unknown: int = 0
    snapshots: list[int] = field(default_factory=list)
    left_committed: int = 0
    changed: int = 0
    members: int = 0
    silent: int = 0
    views: dict[str, ViewReport] = field(default_factory=dict)
    pushed_by_workers: int = 0
    hidden_files: int = 0
    by_tensorflow: dict[str, str] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    compared_with: int | None = None
    seconds: Seconds = field(default_factory=Seconds)

    def timed(self, name: str) -> AbstractContextManager[None]:
        """Add the seconds of the body to those of a name."""
        return self.seconds.timed(name)

    @property
    def rows(self) -> int:
        """Rows written offline, of all views."""
        return sum(view.rows for view in self.views.values())

    @property
    def pushed_rows(self) -> int:
        """Rows written online, of all views."""
        return sum(view.pushed_rows for view in self.views.values())

    @property
    def pushed_values(self) -> int:
        """Values written online: rows times features, of all views."""
        return sum(view.pushed_values for view in self.views.values())

    @property
    def expired(self) -> int:
        """Snapshots that expired, of all views."""
        return sum(len(view.expired) for view in self.views.values())

    def facts(self) -> dict[str, Any]:
        """Return what the record of the run keeps of all views together."""
        left_out = ("verdicts", "views")
        totals = ("rows", "pushed_rows", "pushed_values", "expired")
        return {
            **{name: value for name, value in vars(self).items() if name not in left_out},
            **{name: getattr(self, name) for name in totals},
            "guards": [verdict.facts() for verdict in self.verdicts],
        }

    def __str__(self) -> str:
        unknown = share(self.unknown, self.positions + self.unknown)
        seconds = ", ".join(f"{name} {spent:.1f}" for name, spent in self.seconds.items())
        return (
            f"activity embeddings: {counted(len(self.snapshots), 'snapshot')}{self._span()}, "
            f"{counted(self.changed, 'file')} new or changed\n{self._left_committed()}"
            f"  events   {self.events:,} read, {counted(self.duplicates, 'duplicate')} left out; "
            f"{self._ignored()}{unknown} of the activity in the windows is on unknown items\n"
            f"  members  {self.members:,} in the last snapshot, {self.silent:,} of them silent\n"
            f"  rows     {self.rows:,} offline in {counted(len(self.views), 'view')}"
            f"{self._replaced()}; "
            f"{self.pushed_rows:,} online ({counted(self.pushed_values, 'value')})\n"
            f"{self._expired()}{self._hidden()}{self._by_tensorflow()}{self._guards()}"
            f"  seconds  {seconds}"
        )

    def _left_committed(self) -> str:
        left = self.left_committed
        if not left:
            return ""
        return f"  goes on  after {counted(left, 'snapshot')} that the run before had committed\n"

    def _ignored(self) -> str:
        ignored = self.other_actions
        return f"{counted(ignored, 'event')} of other actions ignored; " if ignored else ""

    def _replaced(self) -> str:
        replaced = sum(view.replaced for view in self.views.values())
        return f" in place of {replaced:,}" if replaced else ""

    def _expired(self) -> str:
        if not self.expired:
            return ""
        rows = sum(view.expired_rows for view in self.views.values())
        return f"  expired  {counted(self.expired, 'snapshot')} of {counted(rows, 'row')}\n"

    def _hidden(self) -> str:
        return f"  files    {passed_over(self.hidden_files)}\n" if self.hidden_files else ""

    def _by_tensorflow(self) -> str:
        """Say for which models TensorFlow was imported, which takes seconds, and why."""
        return "".join(
            f"  models   {name} runs in TensorFlow: {why}\n"
            for name, why in self.by_tensorflow.items()
        )

    def _guards(self) -> str:
        """Say what was compared, and what is not as it was."""
        if not self.snapshots:
            return ""
        if self.compared_with is None:
            return "  guards   no snapshot before to compare with\n"
        passed = sum(verdict.passed for verdict in self.verdicts)
        said = [
            f"{passed} passed, compared with {utc(to_datetime(self.compared_with))}",
            *(str(verdict) for verdict in self.verdicts if verdict.said),
        ]
        return "".join(f"  guards   {line}\n" for line in said)

    def _span(self) -> str:
        """Say when the snapshots are as of."""
        if not self.snapshots:
            return ""
        first, last = (utc(to_datetime(us)) for us in (self.snapshots[0], self.snapshots[-1]))
        return (
            f" as of {last}" if first == last else f" from {first.removesuffix(' UTC')} to {last}"
        )


def view_table(views: Mapping[str, ViewReport]) -> str:
    """Return what is done to each view, one line each.

    Parameters
    ----------
    views
        By name.
    """
    heads = ["version", "rows offline", "rows replaced", "rows expired", "rows online"]
    lines = [["view", *heads]] + [
        [
            name,
            view.version,
            *(f"{n:,}" for n in (view.rows, view.replaced, view.expired_rows, view.pushed_rows)),
        ]
        for name, view in views.items()
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  "
        + "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
