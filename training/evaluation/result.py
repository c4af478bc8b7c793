"""What an evaluation found: the content of `report.json` and of `members.parquet`.

The evaluation writes both. The page, the headline and the gate of a release read them. A result
holds JSON values alone, so that what `evaluate` returns is what the file says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NotRequired, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings.training.figure import FIGURE
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import replace_file, write_text

SCHEMA: Final = 1
REPORT = "report.json"
MEMBERS = "members.parquet"
MEMBER_COLUMNS = ("task", "arm", "seed", "member_id", FIGURE)
"""The columns of `members.parquet` that a reader can rely on: a row an arm, seed and member."""
HTML = "report.html"

DAY: Final = "day"
"""The task that decides: the next positive item among all items of the day."""
TO_DATE: Final = "to_date"
"""The same, for a ranker that knows less."""
ALONE: Final = "alone"
"""The same without a ranker, by an arm's own score and popularity."""
WEEK: Final = "week"
"""The next positive item among all items of the week. It has to agree, where it is measured."""
LIKE: Final = "like"
"""Whether a member likes or dismisses the item acted on."""
LISTS = (DAY, TO_DATE, WEEK, ALONE)
"""Tasks of whole lists, whose figure is NDCG@10."""

RECALL: Final = "recall_at_10"
MRR: Final = "mrr"
AUC: Final = "auc"
LOG_LOSS: Final = "log_loss"
WITHIN_MEMBER_AUC: Final = "within_member_auc"
COVERAGE: Final = "p90_coverage_at_10"


DataFacts = TypedDict(
    "DataFacts",
    {
        "description": str,
        "events": int,
        "members": int,
        "items": int,
        "from": str,
        "until": str,
        "events_fingerprint": str,
        "item_vectors_fingerprint": str,
        "vector_spec": dict[str, Any],
    },
)
"""What was measured on; `from` and `until` are the times of the first and the last event."""


class TimelineFacts(TypedDict):
    """When who learned, when the test was, and how embeddings were published."""

    learn_until: str
    rank_from: str
    test_from: str
    until: str
    publishing_delay_minutes: float
    snapshot_interval_hours: float


class DeclaredFacts(TypedDict):
    """What was fixed before anything was measured."""

    task: str
    figure: str
    seeds: list[int]
    resamples: int
    confidence: float
    correction: str
    power: float
    margin: float


class ArmFacts(TypedDict):
    """What an arm is, and what it takes to keep."""

    name: str
    title: str
    role: str
    models: list[str]
    vectors: int
    features: int
    bytes_per_member: NotRequired[int]
    disk_bytes_per_member: NotRequired[float]
    version: NotRequired[str]
    fingerprint: NotRequired[str]
    trained: NotRequired[str]


class Figures(TypedDict, total=False):
    """Figures of an arm in one task, means over members and seeds. None is a mean of nothing."""

    ndcg_at_10: float | None
    recall_at_10: float | None
    mrr: float | None
    auc: float | None
    log_loss: float | None
    within_member_auc: float | None


class ArmFigures(Figures):
    """The figures of an arm, with the first of them seed by seed."""

    by_seed: list[float]
    seed_spread: float | None


class Candidates(TypedDict):
    """How long the lists of a task are."""

    median: float
    max: int


class Asked(TypedDict):
    """The times of the first and the last query, to learn from and to test on."""

    train: list[str]
    test: list[str]


class TaskFacts(TypedDict):
    """One task: a task of lists has queries and candidates, one of single rows has rows."""

    title: str
    members: int
    base_features: list[str]
    asked: Asked
    queries: NotRequired[int]
    train_queries: NotRequired[int]
    candidates: NotRequired[Candidates]
    rows: NotRequired[int]
    train_rows: NotRequired[int]
    figures: dict[str, ArmFigures]


class Interval(TypedDict):
    """A difference of two arms with the ends of its interval."""

    difference: float
    low: float
    high: float


class ArmDifference(Interval):
    """The difference of an arm to another."""

    arm: str
    against: str


class Comparison(ArmDifference):
    """The difference of two arms in one task, with all that says how sure it is."""

    task: str
    figure: str
    p: float
    of_baseline: float
    relative: float
    minimum_detectable_effect: float | None
    p_holm: float
    real: bool
    share_of_possible: float | None


class Check(TypedDict):
    """Whether the instrument worked; `arm` where the check is of one arm alone."""

    name: str
    passed: bool
    says: str
    arm: NotRequired[str]


class Slice(TypedDict):
    """The differences to nothing within a part of the queries."""

    slice: str
    value: str
    members: int
    queries: int
    differences: list[ArmDifference]


class FreshnessPoint(Figures, Interval):
    """The figures with embeddings of one age."""

    lag: str
    seconds: float


class Freshness(TypedDict):
    """The figures of one arm by the age of its embeddings."""

    arm: str
    points: list[FreshnessPoint]


class RatePoint(TypedDict):
    """The validation figure of one decay rate."""

    r: float
    value: float


class DecaySearch(TypedDict):
    """The search of the decay rate of a reference."""

    arm: str
    figure: str
    points: list[RatePoint]
    best: float


class TrainingCurve(TypedDict):
    """The figures of a model after each epoch of its training."""

    model: str
    epochs: list[dict[str, float]]


class LengthCount(TypedDict):
    """How many test queries have a sequence of one length."""

    length: int
    queries: int


class JudgedTarget(TypedDict):
    """Whether a claim that was made before holds."""

    claim: str
    reached: bool
    says: str


class Result(TypedDict):
    """All that an evaluation found, the content of `report.json`."""

    schema: int
    title: str
    created: str
    simulated: bool
    as_of: str
    data: DataFacts
    timeline: TimelineFacts
    declared: DeclaredFacts
    ranker: dict[str, Any]
    arms: list[ArmFacts]
    tasks: dict[str, TaskFacts]
    comparisons: list[Comparison]
    checks: list[Check]
    slices: list[Slice]
    quality: dict[str, dict[str, float | None]]
    freshness: Freshness | None
    decay_searches: list[DecaySearch]
    training_curves: list[TrainingCurve]
    sequence_lengths: list[LengthCount]
    targets: list[JudgedTarget]
    conclusions: list[str]
    commands: list[str]
    versions: dict[str, str]
    seconds: float


def write_result(result: Result, members: pa.Table, folder: Path) -> None:
    """Write `report.json` and `members.parquet`, each whole or not at all.

    Parameters
    ----------
    result
        What was found.
    members
        The columns `MEMBER_COLUMNS`, and others.
    folder
        Has to exist.
    """
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    replace_file(folder / MEMBERS, lambda aside: pq.write_table(members, aside))
    write_text(folder / REPORT, text)


def read_result(folder: Path) -> Result:
    """Return the content of `report.json` in a folder.

    Raises
    ------
    InvalidInput
        The file is no JSON, of another schema or without arms.
    """
    path = folder / REPORT
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInput(f"{path}: expected a report in JSON. Received: {error}") from error
    schema = result.get("schema") if isinstance(result, dict) else None
    if schema != SCHEMA or not isinstance(result.get("arms"), list):
        raise InvalidInput(
            f"{path}: expected a report of schema {SCHEMA} with its arms. Received: schema {schema}"
        )
    return result


def read_members(folder: Path, arms: list[str]) -> pa.Table:
    """Return `MEMBER_COLUMNS` of some arms, from `members.parquet` in a folder.

    Raises
    ------
    InvalidInput
        The file is no parquet, or lacks a column.
    """
    path = folder / MEMBERS
    try:
        return pq.read_table(path, columns=list(MEMBER_COLUMNS), filters=[("arm", "in", arms)])
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(
            f"{path}: expected a parquet file with the columns {', '.join(MEMBER_COLUMNS)}. "
            f"Received: {error}"
        ) from error
