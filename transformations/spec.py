"""The facts that every part shares: window, length, actions, and which item vectors are meant.

`ActivitySpec` is written into each model's manifest and into the registry, and compared whenever
a model is declared or loaded: a model that was trained on other facts is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal

from activity_embeddings.transformations.errors import (
    InvalidInput,
    quote,
    require_kinds,
    require_texts,
)
from activity_embeddings.transformations.wording import duration

PAD = 0
"""Action id of a padded position; also the first entry of every vocabulary."""
MOST_ACTIONS = 16_000
"""Action ids are int16, and so are the labels of training, of which an action may have two."""
LONGEST_SEQUENCE = 32_767
"""Arrow counts the elements of lists in int32, of 65,536 lists of a batch together."""
LONGEST_VECTOR = 32_767
"""The same for item vectors, and for the vectors that models give."""
LONGEST_SHOWN = 500
"""Characters of a fact that errors show whole."""
LONGEST_WINDOW = timedelta(days=36_525)
"""A hundred years: times before that are out of reach of some stores."""
_VERSION = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class ActivitySpec:
    """What counts as a member's recent activity.

    A value as of `T` is made from events with `T - window <= t < T`, the newest `length` of
    them, oldest first, padded on the left.

    Parameters
    ----------
    window
        How far back events count, default 28 days, at most a hundred years.
    length
        Positions of a sequence, default 32, at most 32,767.
    actions
        Names in the order of their ids; the first has id 1, since id 0 is PAD. At most 16,000.
    positive_actions
        The actions that say the member wants such items.
    other_actions
        "refuse" or "ignore". What to do with an event whose action is not among `actions`: refuse
        the run, or leave the event out and count it.
    """

    window: timedelta = timedelta(days=28)
    length: int = 32
    actions: tuple[str, ...] = ("APPLY", "SAVE", "DISMISS")
    positive_actions: tuple[str, ...] = ("APPLY", "SAVE")
    other_actions: Literal["refuse", "ignore"] = "refuse"

    def __post_init__(self) -> None:
        where = "ActivitySpec"
        require_kinds(where, window=(self.window, timedelta), length=(self.length, int))
        actions, positive = require_texts(
            where, actions=self.actions, positive_actions=self.positive_actions
        )
        object.__setattr__(self, "actions", actions)
        object.__setattr__(self, "positive_actions", positive)
        if self.window <= timedelta(0) or self.length < 1:
            raise InvalidInput(
                "ActivitySpec: `window` and `length` should be positive. "
                f"Received: window={self.window}, length={self.length}"
            )
        if self.window > LONGEST_WINDOW:
            raise InvalidInput(
                f"ActivitySpec: `window` should be at most {duration(LONGEST_WINDOW)}. "
                f"Received: {duration(self.window)}"
            )
        if self.length > LONGEST_SEQUENCE:
            raise InvalidInput(
                f"ActivitySpec: `length` should be an int of at most {LONGEST_SEQUENCE:,}. "
                f"Received: {quote(self.length)}"
            )
        if len(self.actions) > MOST_ACTIONS:
            raise InvalidInput(
                f"ActivitySpec: `actions` should be at most {MOST_ACTIONS:,}. "
                f"Received: {len(self.actions):,}"
            )
        if len(set(self.actions)) != len(self.actions) or "PAD" in self.actions:
            raise InvalidInput(
                "ActivitySpec: `actions` should be distinct and leave out PAD, which is always "
                f"id 0. Received: {quote(self.actions)}"
            )
        if not set(self.positive_actions) <= set(self.actions):
            raise InvalidInput(
                "ActivitySpec: `positive_actions` should be among `actions`. "
                f"Received: positive_actions={quote(self.positive_actions)}, "
                f"actions={quote(self.actions)}"
            )
        if self.other_actions not in ("refuse", "ignore"):
            raise InvalidInput(
                "ActivitySpec: `other_actions` should be 'refuse' or 'ignore'. "
                f"Received: {quote(self.other_actions)}"
            )

    @property
    def ignores_other_actions(self) -> bool:
        """Whether events of other actions are left out instead of refused."""
        return self.other_actions == "ignore"

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Action names by id, PAD first."""
        return ("PAD", *self.actions)

    @property
    def window_us(self) -> int:
        """The window in microseconds, the unit of every time in this package."""
        return self.window // timedelta(microseconds=1)

    @property
    def positive_ids(self) -> tuple[int, ...]:
        """Ids of the positive actions."""
        return tuple(self.vocabulary.index(name) for name in self.positive_actions)

    def to_dict(self) -> dict[str, Any]:
        """Return what models depend on, as JSON values: all but `other_actions`."""
        return {
            "window_seconds": self.window.total_seconds(),
            "length": self.length,
            "actions": list(self.actions),
            "positive_actions": list(self.positive_actions),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ActivitySpec:
        """Invert `to_dict`, or `to_json` after parsing it.

        Raises
        ------
        InvalidInput
            A fact is missing, or none that a spec can have.
        """
        _require_facts("activity spec", value, cls().to_dict())
        require_kinds("activity spec", window_seconds=(value["window_seconds"], (float, int)))
        try:
            window = timedelta(seconds=value["window_seconds"])
        except (OverflowError, ValueError) as error:
            raise InvalidInput(
                f"activity spec: `window_seconds` should be at most that of "
                f"{duration(LONGEST_WINDOW)}. Received: {quote(value['window_seconds'])}"
            ) from error
        return cls(
            window=window,
            length=value["length"],
            actions=value["actions"],
            positive_actions=value["positive_actions"],
            other_actions=value.get("other_actions", "refuse"),
        )

    def to_json(self) -> str:
        """Return everything as one line of JSON with sorted keys."""
        return json.dumps({**self.to_dict(), "other_actions": self.other_actions}, sort_keys=True)


@dataclass(frozen=True, slots=True)
class ItemVectorSpec:
    """Which item vectors a model was made for.

    Parameters
    ----------
    name, version
        Name and version of the vectors.
    dimension
        Length of a vector, at most 32,767.
    fingerprint
        Fingerprint of the encoder that makes them, so that one retrained under its old version is
        told apart; empty for vectors of the user's own.
    """

    name: str
    version: str
    dimension: int
    fingerprint: str = ""

    def __post_init__(self) -> None:
        require_kinds(
            "item vectors",
            name=(self.name, str),
            dimension=(self.dimension, int),
            fingerprint=(self.fingerprint, str),
        )
        require_version(self.version, f"item vectors {quote(self.name)}")
        if not 1 <= self.dimension <= LONGEST_VECTOR:
            raise InvalidInput(
                f"item vectors {quote(self.name)}: `dimension` should be a positive int of at most "
                f"{LONGEST_VECTOR:,}. Received: {quote(self.dimension)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ItemVectorSpec:
        """Invert `to_dict`; what was written before there were fingerprints has none.

        Raises
        ------
        InvalidInput
            A fact is missing, or none that item vectors can have.
        """
        _require_facts("item vectors", value, ("name", "version", "dimension"))
        return cls(
            name=value["name"],
            version=value["version"],
            dimension=value["dimension"],
            fingerprint=value.get("fingerprint", ""),
        )


def require_version(version: Any, what: str) -> str:
    """Return a version, which becomes part of paths and of names of tables.

    Raises
    ------
    InvalidInput
        It is none that can.
    """
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise InvalidInput(
            f"{what}: `version` should be letters, digits, '.', '_' and '-'. "
            f"Received: {quote(version)}"
        )
    return version


def describe_mismatch(expected: Mapping[str, Any], received: Mapping[str, Any]) -> str | None:
    """Name the first entry in which two `to_dict()` values differ, or return None."""
    for key, value in expected.items():
        if received.get(key) != value:
            return f"`{key}` should be {_shown(value)}. Received: {_shown(received.get(key))}"
    return None


def _shown(value: Any) -> str:
    """Return a fact whole, unless it is so long that nobody would read it."""
    whole = repr(value)
    return whole if len(whole) <= LONGEST_SHOWN else quote(value)


def _require_facts(what: str, value: Any, facts: Iterable[str]) -> None:
    """Raise `InvalidInput` unless a JSON value is an object that has all facts."""
    if not isinstance(value, Mapping) or not set(facts) <= value.keys():
        raise InvalidInput(
            f"{what}: expected an object with {', '.join(facts)}. Received: {quote(value)}"
        )
