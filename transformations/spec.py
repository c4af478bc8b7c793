"""The facts that every part shares: window, length, actions, and which item vectors are meant.

`ActivitySpec` is written into each model's manifest and into the registry, and compared whenever
a model is declared or loaded: a model that was trained on other facts is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal

from activity_embeddings.transformations.errors import (
    InvalidInput,
    quote,
    require_kinds,
    require_texts,
)
from activity_embeddings.transformations.names import Tag, is_identifier
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
class ActivityKind:
    """One source of activity among the several of a domain.

    Parameters
    ----------
    name
        Name of its item's entity, as `search`.
    actions
        Its actions; no other kind has one of them, so that an action says its kind to models.
    keep
        How many places of a sequence are kept for it, default none. Where it has fewer events,
        kept places stay empty.
    """

    name: str
    actions: tuple[str, ...]
    keep: int = 0

    def __post_init__(self) -> None:
        require_kinds("ActivityKind", name=(self.name, str), keep=(self.keep, int))
        (actions,) = require_texts("ActivityKind", actions=self.actions)
        object.__setattr__(self, "actions", actions)
        if not is_identifier(self.name) or not actions:
            raise InvalidInput(
                "ActivityKind: expected a name of letters, digits and underscores, as Python "
                "writes them (in NFKC), and at least one action. Received: "
                f"name={quote(self.name)}, actions={quote(actions)}"
            )
        if self.keep < 0:
            raise InvalidInput(
                f"kind {self.name!r}: `keep` should not be negative. Received: {self.keep}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the kind as JSON values."""
        return {"name": self.name, "actions": list(self.actions), "keep": self.keep}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ActivityKind:
        """Invert `to_dict`.

        Raises
        ------
        InvalidInput
            A fact is missing, or none that a kind can have.
        """
        _require_facts("kind of activity", value, ("name", "actions", "keep"))
        return cls(value["name"], value["actions"], value["keep"])


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
    kinds
        The kinds of activity, where a domain has several: the first is its own, and only its
        actions are positive; `actions` are those of all kinds in turn. `of_kinds` makes such a
        spec. Empty where all activity is of one kind.
    """

    window: timedelta = timedelta(days=28)
    length: int = 32
    actions: tuple[str, ...] = ("APPLY", "SAVE", "DISMISS")
    positive_actions: tuple[str, ...] = ("APPLY", "SAVE")
    other_actions: Literal["refuse", "ignore"] = "refuse"
    kinds: tuple[ActivityKind, ...] = ()

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
        others = self.other_actions
        if not isinstance(others, str) or others not in ("refuse", "ignore"):
            raise InvalidInput(
                "ActivitySpec: `other_actions` should be 'refuse' or 'ignore'. "
                f"Received: {quote(self.other_actions)}"
            )
        require_kinds(where, kinds=(self.kinds, (tuple, list)))
        object.__setattr__(self, "kinds", tuple(self.kinds))
        if self.kinds:
            self._check_kinds()

    def _check_kinds(self) -> None:
        kinds = self.kinds
        require_kinds(
            "ActivitySpec", **{f"kinds[{i}]": (k, ActivityKind) for i, k in enumerate(kinds)}
        )
        called = [kind.name for kind in kinds]
        if len(kinds) < 2 or len(set(called)) < len(called):
            raise InvalidInput(
                "ActivitySpec: `kinds` should be two or more of different names, or none. "
                f"Received: {', '.join(called)}"
            )
        if self.actions != tuple(action for kind in kinds for action in kind.actions):
            raise InvalidInput(
                "ActivitySpec: `actions` should be those of all kinds in turn. "
                f"Received: actions={quote(self.actions)}, kinds={quote(kinds)}"
            )
        if not set(self.positive_actions) <= set(kinds[0].actions):
            raise InvalidInput(
                f"ActivitySpec: `positive_actions` should be actions of {called[0]}, the domain's "
                f"own kind: {', '.join(kinds[0].actions)}. "
                f"Received: {quote(self.positive_actions)}"
            )
        if self.shared_places < 0:
            kept = ", ".join(f"{kind.name} {kind.keep}" for kind in kinds if kind.keep)
            raise InvalidInput(
                f"ActivitySpec: the places kept for kinds should be at most `length` together, "
                f"{self.length}. Received: {kept}"
            )

    @classmethod
    def of_kinds(
        cls, specs: Mapping[str, ActivitySpec], keep: Mapping[str, int] | None = None
    ) -> ActivitySpec:
        """Return the spec of a domain with several kinds of activity.

        Parameters
        ----------
        specs
            The spec of each kind by its name, the domain's own first. All have one window and
            length, and no action in common.
        keep
            How many places of a sequence are kept for a kind, by its name; none unless said.

        Raises
        ------
        InvalidInput
            Two kinds have one action, or different windows or lengths; or `keep` names another
            kind, or keeps more places than a sequence has.
        """
        keep = dict(keep or {})
        others = [name for name in keep if name not in specs]
        if others:
            raise InvalidInput(
                f"kinds of activity: `keep` should be of {', '.join(specs)}. "
                f"Received: {', '.join(map(quote, others))}"
            )
        own, first = next(iter(specs.items()))
        kind_of: dict[str, str] = {}
        for name, spec in specs.items():
            if (spec.window, spec.length) != (first.window, first.length):
                raise InvalidInput(
                    f"kinds of activity: {name} should have the window and length of {own}, "
                    f"{duration(first.window)} and {first.length:,}. Received: "
                    f"{duration(spec.window)} and {spec.length:,}"
                )
            for action in spec.actions:
                if action in kind_of:
                    raise InvalidInput(
                        "kinds of activity: no two should have an action in common, since the "
                        f"action says the kind to models. Received: {quote(action)} of "
                        f"{kind_of[action]} and of {name}"
                    )
                kind_of[action] = name
        return cls(
            window=first.window,
            length=first.length,
            actions=tuple(kind_of),
            positive_actions=first.positive_actions,
            other_actions=first.other_actions,
            kinds=tuple(
                ActivityKind(name, spec.actions, keep.get(name, 0)) for name, spec in specs.items()
            ),
        )

    @property
    def own_actions(self) -> tuple[str, ...]:
        """The actions on the domain's own items, of which the positive ones are some."""
        return self.kinds[0].actions if self.kinds else self.actions

    @property
    def own_action_ids(self) -> tuple[int, ...]:
        """Ids of the own actions: 1 and up."""
        return tuple(range(1, len(self.own_actions) + 1))

    @property
    def shared_places(self) -> int:
        """Places of a sequence that are kept for no kind."""
        return self.length - sum(kind.keep for kind in self.kinds)

    @property
    def keeps_places(self) -> bool:
        """Whether some places are kept for a kind."""
        return self.shared_places < self.length

    def has_place(self, action: int, newer: Sequence[int]) -> bool:
        """Return whether a sequence has a place for an event.

        Parameters
        ----------
        action
            Its action id.
        newer
            Action ids of the newer events that have a place.
        """
        if not self.keeps_places:
            return len(newer) < self.length
        shared = 0
        for kind in self.kinds:
            first = self.first_action_id(kind.name)
            actions = range(first, first + len(kind.actions))
            count = sum(other in actions for other in newer)
            if action in actions and count < kind.keep:
                return True
            shared += max(0, count - kind.keep)
        return shared < self.shared_places

    def kind_of(self, action: str | None) -> str | None:
        """Return the name of the kind of an action; None for one that no kind has."""
        return next((kind.name for kind in self.kinds if action in kind.actions), None)

    def first_action_id(self, kind: str) -> int:
        """Return the id of the first action of a kind; the others follow."""
        (actions,) = [each.actions for each in self.kinds if each.name == kind]
        return self.vocabulary.index(actions[0])

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
            # Absent where there is one, so that what was made before there were kinds stays valid.
            **({"kinds": [kind.to_dict() for kind in self.kinds]} if self.kinds else {}),
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
            kinds=tuple(map(ActivityKind.from_dict, value.get("kinds", ()))),
        )

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> ActivitySpec:
        """Return the spec that a view of events or sequences has in its tags; invert `to_json`."""
        return cls.from_dict(json.loads(tags[Tag.SPEC]))

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


def vector_spec_of_kinds(specs: Mapping[str, ItemVectorSpec]) -> ItemVectorSpec:
    """Return which item vectors those of several kinds are together.

    Kinds that share one kind of vectors, as by one encoder of texts, have its name and version.

    Parameters
    ----------
    specs
        By the name of each kind, the domain's own first.

    Raises
    ------
    InvalidInput
        They have different dimensions.
    """
    distinct = list(dict.fromkeys(specs.values()))
    if len({spec.dimension for spec in distinct}) > 1:
        raise InvalidInput(
            "item vectors: those of all kinds of activity should have one dimension. Received: "
            + ", ".join(f"{kind} {spec.dimension:,}" for kind, spec in specs.items())
        )
    if len(distinct) == 1:
        return distinct[0]
    fingerprints = [spec.fingerprint for spec in distinct]
    return ItemVectorSpec(
        name="+".join(spec.name for spec in distinct),
        version="_".join(spec.version for spec in distinct),
        dimension=distinct[0].dimension,
        fingerprint="+".join(fingerprints) if any(fingerprints) else "",
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
