"""The variants of the ranker that are compared: which vectors of a member each one gets.

An arm differs from another in these vectors alone: queries, candidates, base features, ranker and
seeds are the same for all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from activity_embeddings.transformations.errors import InvalidInput

NOTHING = "nothing"
MEAN = "mean"
DECAY = "decay"
SINGLE_DECAY = "single_decay"
SEVERAL_RATES = "several_rates"
CATEGORY_SUMS = "category_sums"
DECAY_AND_RATES = "decay+two_rates"
TWO_RATES = "two_rates"
ITEM_COUNTS = "item_counts"
ITEM_ACTION_COUNTS = "item_action_counts"
PLACEBO = "placebo"
ITEM_ONLY = "item_only"
CANARY = "leak_canary"
AGAIN = "nothing_again"
ORACLE = "oracle"
COUNTS = (ITEM_COUNTS, ITEM_ACTION_COUNTS)
"""Look-ups, which cost nothing to learn: what a learned vector has to beat."""
RESERVED = frozenset(
    {
        NOTHING,
        MEAN,
        DECAY,
        SINGLE_DECAY,
        SEVERAL_RATES,
        CATEGORY_SUMS,
        ITEM_COUNTS,
        ITEM_ACTION_COUNTS,
        TWO_RATES,
        DECAY_AND_RATES,
        PLACEBO,
        ITEM_ONLY,
        CANARY,
        AGAIN,
        ORACLE,
    }
)
"""Names of the arms that every evaluation may have."""


class ArmRole(StrEnum):
    """What an arm is for."""

    BASE = "base"
    REFERENCE = "reference"
    LEARNED = "learned"
    LESS = "less"
    """The candidate without one of several kinds of activity."""
    CONTROL = "control"
    ORACLE = "oracle"


class Kind(StrEnum):
    """Where the vectors of a member come from."""

    OWN = "own"
    """What the model gives for the member, as of when the evaluation's values are."""
    OTHER_MEMBER = "other member"
    """The same for another member, drawn at random."""
    AS_OF = "as of"
    """Computed as of the time of the query, minus a lag."""
    CONSTANT = "constant"
    """Ones, the same for everyone: what is left is the item's own vector."""
    CATEGORIES = "categories"
    """Sums of the categories of recent items, beside the item's own categories."""
    SCORES = "scores"
    """Scores of the item by what makes no vector: a table of counts, or a model of others."""
    WITHOUT = "without a kind of activity"
    """What the model gives for the member without the events of one kind of activity."""
    TRUTH = "truth"
    """The true preference in a simulated market, beside the item's true vector."""


@dataclass(frozen=True)
class Source:
    """Vectors of members.

    Parameters
    ----------
    kind
        Where they come from.
    model
        Name of the activity model, for the kinds that have one.
    lag
        For `AS_OF`: how long before the query. Negative looks into the future, as a leak does.
    without
        For `WITHOUT`: the name of the kind of activity.
    scorer
        For `SCORES`: the name of the `ScoringModel`.
    """

    kind: Kind
    model: str = ""
    lag: timedelta = timedelta(0)
    without: str = ""
    scorer: str = ""


@dataclass(frozen=True)
class Arm:
    """One variant.

    Parameters
    ----------
    name
        Short, of letters, digits, `_` and `+`.
    title
        For people.
    role
        What it is for.
    sources
        Its vectors; none for the base features alone.
    """

    name: str
    title: str
    role: ArmRole
    sources: tuple[Source, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """The activity models whose values it reads."""
        return tuple(source.model for source in self.sources if source.model)

    @property
    def scorers(self) -> tuple[str, ...]:
        """The models whose scores it has."""
        return tuple(source.scorer for source in self.sources if source.scorer)

    @property
    def only_scores(self) -> bool:
        """Whether it has scores, and no vector."""
        return bool(self.sources) and len(self.scorers) == len(self.sources)


def model_arm(name: str, title: str, role: ArmRole) -> Arm:
    """Return the arm of one model, of the same name."""
    return Arm(name, title, role, (Source(Kind.OWN, name),))


def scoring_arm(name: str, title: str) -> Arm:
    """Return the arm of a model that scores items, of the same name: something to be beaten."""
    return Arm(name, title, ArmRole.REFERENCE, (Source(Kind.SCORES, scorer=name),))


def combined(one: Arm, other: Arm) -> Arm:
    """Return an arm with the vectors of both, of the role of the second."""
    return Arm(
        f"{one.name}+{other.name}",
        f"{one.title}, and {other.title}",
        other.role,
        one.sources + other.sources,
    )


def without_kinds(candidate: str, kinds: Sequence[str]) -> list[Arm]:
    """Return an arm for each of several kinds of activity: the candidate without its events.

    The model is the same, and what it reads differs. So an arm says what the model finds in a kind
    beside all others, not what a model would find that was trained without it.
    """
    return [
        Arm(
            f"{candidate}_without_{kind}",
            f"{candidate} without activity of the kind {kind}",
            ArmRole.LESS,
            (Source(Kind.WITHOUT, candidate, without=kind),),
        )
        for kind in kinds
    ]


def controls(candidate: str, *, leaking: str) -> list[Arm]:
    """Return the arms that show that the instrument can fail.

    Parameters
    ----------
    candidate
        The model whose placebo is made.
    leaking
        The model whose values see the label in the canary.
    """
    return [
        Arm(
            PLACEBO,
            f"{candidate} of another member",
            ArmRole.CONTROL,
            (Source(Kind.OTHER_MEMBER, candidate),),
        ),
        Arm(
            ITEM_ONLY,
            "the item's own vector, nothing of the member",
            ArmRole.CONTROL,
            (Source(Kind.CONSTANT),),
        ),
        Arm(
            CANARY,
            f"{leaking} that sees the label's own activity",
            ArmRole.CONTROL,
            (Source(Kind.AS_OF, leaking, -timedelta(microseconds=1)),),
        ),
        Arm(AGAIN, "nothing, by other seeds (A/A)", ArmRole.CONTROL),
    ]


def require_distinct_names(models: Sequence[str], *, reserved: Collection[str] = RESERVED) -> None:
    """Raise `InvalidInput` where a model has the name of another or of a reserved arm."""
    taken = [name for name in models if name in reserved or models.count(name) > 1]
    if taken:
        raise InvalidInput(
            "evaluation: expected models whose names differ from each other and from the arms "
            f"that are always there. Received: {', '.join(sorted(set(taken)))}"
        )
