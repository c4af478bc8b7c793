"""What is said of a member's embeddings: the values of an explanation, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from activity_embeddings.transformations.wording import counted, utc

LEAVE_ONE_OUT = "leave_one_out"
INTEGRATED_GRADIENTS = "integrated_gradients"
METHODS = (LEAVE_ONE_OUT, INTEGRATED_GRADIENTS)

PUBLISHED, SOURCE, REQUEST = "the online store", "the source of events", "a request"
SMALLEST_SHOWN = 0.0005
"""A smaller effect is shown as none."""


@dataclass(frozen=True)
class ExplainedActivity:
    """One activity of a sequence.

    Attributes
    ----------
    item
        The item's id.
    name
        Its name, or its id as text where it has none.
    action
        What was done.
    time
        When, UTC.
    new
        Whether it came with the request.
    kind
        The kind of activity, by the name of its item's entity; empty where there is one alone.
    """

    item: int | str
    name: str
    action: str
    time: datetime
    new: bool = False
    kind: str = ""

    @property
    def label(self) -> str:
        """How people call what was acted on."""
        return f"{self.kind} {self.name}" if self.kind else self.name

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        said = {**asdict(self), "time": self.time.isoformat()}
        return said if self.kind else {key: said[key] for key in said if key != "kind"}


@dataclass(frozen=True)
class NearItem:
    """An item near to a vector.

    Attributes
    ----------
    item, name
        As of an `ExplainedActivity`.
    score
        Cosine of its vector and the embedding, -1 to 1.
    """

    item: int | str
    name: str
    score: float


@dataclass(frozen=True, eq=False)
class ExplainedOutput:
    """One output of one model: its vector, and what each of n activities does to it.

    Attributes
    ----------
    model, version, output
        Which.
    vector
        float32 [d]; the embedding.
    effects
        float32 [n, d]; what each activity adds to the vector: the vector less what it is without
        the activity or, by integrated gradients, the activity's part of it.
    nearest
        The k items whose vectors are nearest, best first. None where the model's vectors are not of
        the length of items', or the vector is zero.
    score_effects
        float32 [n, k]; what each activity adds to the score of each of `nearest`.
    nearest_without
        For each activity, the nearest items of the vector less its effect.
    """

    model: str
    version: str
    output: str
    vector: np.ndarray
    effects: np.ndarray
    nearest: tuple[NearItem, ...] = ()
    score_effects: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    nearest_without: tuple[tuple[NearItem, ...], ...] = ()

    @property
    def moved(self) -> np.ndarray:
        """Length of each effect by that of the vector, float64 [n]; 0 where the vector is zero."""
        length = np.linalg.norm(self.vector.astype(np.float64))
        return np.linalg.norm(self.effects.astype(np.float64), axis=1) / (length or 1.0)

    @property
    def counts(self) -> np.ndarray:
        """Whether each effect is large enough to be shown, bool [n]."""
        return self.moved >= SMALLEST_SHOWN

    @property
    def label(self) -> str:
        """How people call it."""
        return f"{self.model} version {self.version}, {self.output}"

    def enters(self, activity: int) -> list[NearItem]:
        """Return the items that are among the nearest only without an activity."""
        there = {near.item for near in self.nearest}
        return [near for near in self.nearest_without[activity] if near.item not in there]

    def leaves(self, activity: int) -> list[NearItem]:
        """Return the items that are among the nearest only with an activity."""
        left = {near.item for near in self.nearest_without[activity]}
        return [near for near in self.nearest if near.item not in left]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values; of the effects their lengths."""
        return {
            "model": self.model,
            "version": self.version,
            "output": self.output,
            "vector": self.vector.tolist(),
            "nearest": [asdict(near) for near in self.nearest],
            "activities": [
                {
                    "moved": float(moved),
                    "score_effects": self.score_effects[i].tolist() if self.nearest else [],
                    "nearest_without": [asdict(near) for near in self.nearest_without[i]],
                }
                for i, moved in enumerate(self.moved)
            ],
        }


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a member's embeddings are what they are. `str` of it is a text for people.

    Attributes
    ----------
    member
        The member's id.
    member_name, item_name
        What the domain calls members and items.
    as_of
        The cut-off, UTC: only events strictly before it count.
    origin
        Where the sequence is from: the online store, the source of events, or a request.
    method
        "leave_one_out" or "integrated_gradients".
    activities
        The n activities of the sequence, oldest first.
    left_out
        Events that are not in the sequence, by the reason; only reasons that there were.
    outputs
        Every output of every model asked for.
    """

    member: int | str
    member_name: str
    item_name: str
    as_of: datetime
    origin: str
    method: str
    activities: tuple[ExplainedActivity, ...]
    left_out: Mapping[str, int]
    outputs: tuple[ExplainedOutput, ...]

    @property
    def headline(self) -> str:
        """Whose embeddings, as of when, and what they are made from, in one line."""
        found = counted(len(self.activities), "activity")
        new = sum(activity.new for activity in self.activities)
        parts = [found + (f", {new:,} new" if new else "")]
        parts += [f"{number:,} left out: {why}" for why, number in self.left_out.items()]
        return (
            f"{self.member_name} {self.member} as of {utc(self.as_of)}, from {self.origin}: "
            f"{'; '.join(parts)}"
        )

    @property
    def reading(self) -> str:
        """How to read the figures, in one line."""
        what = (
            "the vector less what it is without the activity"
            if self.method == LEAVE_ONE_OUT
            else "the activity's part of the vector, by integrated gradients"
        )
        return (
            f"moved: length of {what}, by the length of the vector; score: what that adds to the "
            f"cosines of the nearest {self.item_name}s, on average. Items acted on are not among "
            "the nearest."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values; see `ExplainedOutput.to_dict`."""
        return {
            "member": self.member,
            "as_of": self.as_of.isoformat(),
            "origin": self.origin,
            "method": self.method,
            "left_out": dict(self.left_out),
            "activities": [activity.to_dict() for activity in self.activities],
            "outputs": [output.to_dict() for output in self.outputs],
        }

    def to_html(self) -> str:
        """Return a page for people, which needs no other file."""
        from activity_embeddings.transformations.explain.page import page_of

        return page_of(self)

    def __str__(self) -> str:
        lines = [self.headline]
        for output in self.outputs:
            lines += ["", output.label]
            lines += self._effects(output)
            if output.nearest:
                lines.append(f"  nearest {self.item_name}s, cosine")
                lines += [f"  {near.score:7.3f}  {near.name}" for near in output.nearest]
        return "\n".join([*lines, "", self.reading])

    def _effects(self, output: ExplainedOutput) -> list[str]:
        """Return a line for each activity that moved an output, newest first."""
        moved = output.moved
        shown = [i for i in reversed(range(len(moved))) if output.counts[i]]
        if not shown:
            return ["  the zero vector: no activity counts"]
        scored = bool(output.nearest)
        lines = [f"    moved{'    score' if scored else ''}"]
        for i in shown:
            activity = self.activities[i]
            # A vector may be moved by more than its own length.
            percent = f"{100 * moved[i]:5.1f} %"
            score = f"{output.score_effects[i].mean():+9.3f}" if scored else ""
            what = f"{utc(activity.time)}  {activity.action}  {activity.label}"
            changes = [f"+ {near.name}" for near in output.enters(i)] if scored else []
            changes += [f"- {near.name}" for near in output.leaves(i)] if scored else []
            lines.append(f"  {percent}{score}  {what}{'  *' if activity.new else ''}")
            if changes:
                lines.append(f"{' ' * (9 + len(score))}  without it: {', '.join(changes)}")
        rest = len(moved) - len(shown)
        return [*lines, f"  {counted(rest, 'activity')} moved nothing"] if rest else lines
