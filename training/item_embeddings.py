"""Learn one unit vector a job from its content and from who acted on it before a cut-off.

The vectors are the items that every activity model reads. They are fitted once, on activity before
`cutoff` alone, and then frozen: a job that appears later is embedded from its content, by the same
fitted parts, and carries the time from which its vector can be known.

    python -m training.item_embeddings --data feature_repo/data --cutoff 2013-05-01
"""

import argparse
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler, normalize

from training.movietweetings import EVENTS_FILE, POSTINGS_FILE
from transformations.errors import InvalidInput
from transformations.names import ACTION, EMBEDDING, EVENT_TIMESTAMP, JOB_ID, MEMBER_ID

EMBEDDINGS_FILE = "job_embeddings.parquet"

ACTION_WEIGHTS = {"APPLY": 1.0, "SAVE": 0.5, "DISMISS": 0.0}
"""How much an action says that the member wants such jobs. A negative weight for DISMISS ranked
held-out jobs no better than none."""

BEHAVIOUR_SHARE_OF_DIMENSIONS = 5 / 8
BEHAVIOUR_SHARE_OF_COSINE = 0.4
"""The cosine of two jobs is this share behaviour and the rest content."""

SUPPORT_HALF_WAY = 20
"""Positive members at which a job's own behaviour counts as much as what its content predicts."""

CONTENT_COMPONENTS = 100
RIDGE_ALPHA = 10.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAY_US = timedelta(days=1) // _MICROSECOND
NIGHTLY_JOB = timedelta(hours=4)
"""Time after midnight UTC at which the vectors of the day's new postings are ready."""
_WORD = re.compile(r"\w\w+")


def fit_job_embeddings(
    events: pa.Table,
    postings: pa.Table,
    *,
    cutoff: datetime,
    dimension: int = 64,
    seed: int = 0,
) -> pa.Table:
    """Return one unit vector a posting, fitted on activity strictly before `cutoff`.

    A vector is two unit vectors side by side, so that a cosine is a fixed mix of two:

    - content: TF-IDF of title words, genres, year and decade, reduced by a truncated SVD;
    - behaviour: the matrix of jobs by members who wanted them, TF-IDF weighted so that a member
      who wants everything says little, reduced by a truncated SVD and centred on the average
      action (otherwise the first factor is popularity and every popular job looks alike). A job
      with few members has noisy factors: they are shrunk towards what ridge regression predicts
      from the content, with the weight `support / (support + SUPPORT_HALF_WAY)` on its own.

    Vocabulary, weights and both reductions are fitted on jobs acted on before `cutoff` alone, so
    no vector depends on an event at or after it. Later events decide `event_timestamp` only:

    - activity before `cutoff`, or none at all: `cutoff`;
    - first activity at or after `cutoff`: `NIGHTLY_JOB` after the end of that UTC day, when a
      nightly job would have embedded the new posting. Until then it is an unknown job.

    Parameters
    ----------
    events : pa.Table
        Columns `member_id`, `job_id` (integers), `action` (APPLY, SAVE or DISMISS) and
        `event_timestamp` (UTC where it has no zone), in any order. A member's newest action on a
        job counts. Jobs without a posting are ignored.
    postings : pa.Table
        Columns `job_id` (unique integers), `title` (text), `year` (integer) and `genres` (list of
        text), in any order.
    cutoff : datetime
        With a time zone.
    dimension : int
        Length of a vector, at least 2, default 64. Unused dimensions of tiny data are zero.
    seed : int
        Of the randomised SVD, default 0. The same data in any row order and the same seed give
        the same vectors.

    Returns
    -------
    pa.Table
        `job_id` int64, `embedding` list<float32> of `dimension` finite values with L2 norm 1, and
        `event_timestamp` timestamp[us, UTC]; one row a posting, sorted by `job_id`.

    Raises
    ------
    InvalidInput
        If a column is missing or holds nulls, a posting is there twice, an action is unknown,
        `cutoff` has no time zone, `dimension` is less than 2, or no posting was applied to or
        saved before `cutoff`.
    """
    if cutoff.tzinfo is None:
        raise InvalidInput(f"`cutoff` should have a time zone. Received: {cutoff.isoformat()}")
    if dimension < 2:
        raise InvalidInput(f"`dimension` should be at least 2. Received: {dimension}")
    cutoff_us = (cutoff - _EPOCH) // _MICROSECOND
    jobs = _postings_frame(postings)
    actions = _events_frame(events, jobs["job_id"])

    past = actions[actions["time"] < cutoff_us]
    wanted = past.drop_duplicates(["member_id", "row"], keep="last").query("weight > 0")
    if wanted.empty:
        raise InvalidInput(
            f"`events` should hold an APPLY or SAVE on a posting before {cutoff.isoformat()} to "
            f"learn from. Received: {len(past)} events on postings before it, none positive"
        )

    acted_on = np.isin(np.arange(len(jobs)), past["row"])
    content = _content(jobs, acted_on, seed)
    behaviour_dimension = round(dimension * BEHAVIOUR_SHARE_OF_DIMENSIONS)
    behaviour_dimension = min(max(behaviour_dimension, 1), dimension - 1)
    behaviour = _behaviour(wanted, content, behaviour_dimension, seed)
    vectors = normalize(
        np.hstack(
            [
                np.sqrt(BEHAVIOUR_SHARE_OF_COSINE) * behaviour,
                np.sqrt(1 - BEHAVIOUR_SHARE_OF_COSINE)
                * normalize(_fit_width(content, dimension - behaviour_dimension)),
            ]
        )
    ).astype(np.float32)

    first = actions.groupby("row")["time"].min().reindex(range(len(jobs)), fill_value=cutoff_us - 1)
    stamps = np.where(
        first < cutoff_us, cutoff_us, (first // _DAY_US + 1) * _DAY_US + NIGHTLY_JOB // _MICROSECOND
    )
    return pa.table(
        {
            JOB_ID: pa.array(jobs["job_id"], pa.int64()),
            EMBEDDING: pa.ListArray.from_arrays(
                pa.array(np.arange(len(jobs) + 1) * dimension, pa.int32()),
                pa.array(vectors.ravel()),
            ),
            EVENT_TIMESTAMP: pa.array(stamps, pa.timestamp("us", tz="UTC")),
        }
    )


def write_job_embeddings(table: pa.Table, path: Path) -> None:
    """Write what `fit_job_embeddings` returned as a Parquet file.

    Parameters
    ----------
    table : pa.Table
        Columns `job_id`, `embedding`, `event_timestamp`.
    path : Path
        File to write or replace.
    """
    pq.write_table(table, path, compression="zstd", use_dictionary=[JOB_ID, EVENT_TIMESTAMP])


def _postings_frame(postings: pa.Table) -> pd.DataFrame:
    """Return the checked postings, sorted by `job_id`, with a list of content tokens each."""
    _check_columns("postings", postings, [JOB_ID, "title", "year", "genres"], may_be_null="genres")
    if postings.num_rows == 0:
        raise InvalidInput("`postings` should hold at least one row. Received: none")
    frame = pd.DataFrame({"job_id": postings[JOB_ID].to_numpy()})
    repeated = frame.loc[frame["job_id"].duplicated(), "job_id"]
    if len(repeated):
        raise InvalidInput(
            f"`postings` should hold a job once. Received: {repeated.nunique()} jobs more than "
            f"once, {JOB_ID} {repeated.iloc[0]} among them"
        )
    frame["tokens"] = [
        _tokens(title, year, genres or [])
        for title, year, genres in zip(
            postings["title"].to_pylist(),
            postings["year"].to_pylist(),
            postings["genres"].to_pylist(),
            strict=True,
        )
    ]
    return frame.sort_values("job_id", ignore_index=True)


def _tokens(title: str, year: int, genres: list[str]) -> list[str]:
    """Return the content of a posting as words whose prefix keeps the fields apart."""
    return [
        *(f"title:{word}" for word in _WORD.findall(title.lower())),
        *(f"genre:{genre}" for genre in genres),
        f"year:{year}",
        f"decade:{year // 10}",
    ]


def _events_frame(events: pa.Table, job_ids: pd.Series) -> pd.DataFrame:
    """Return the events on postings: `member_id`, `row` of the posting, `weight`, `time` in us.

    The order is total (time, member, posting, weight), so that "the newest" is the same for any
    order of the input rows.
    """
    _check_columns("events", events, [MEMBER_ID, JOB_ID, ACTION, EVENT_TIMESTAMP])
    actions = events[ACTION].cast(pa.string())
    unknown = sorted(set(pc.unique(actions).to_pylist()) - set(ACTION_WEIGHTS))
    if unknown:
        raise InvalidInput(
            f"`{ACTION}` should be one of {list(ACTION_WEIGHTS)}. Received: {unknown[0]!r}"
        )
    times = events[EVENT_TIMESTAMP].cast(pa.timestamp("us", tz="UTC"), safe=False)
    frame = pd.DataFrame(
        {
            "member_id": events[MEMBER_ID].to_numpy(),
            "row": pd.Index(job_ids).get_indexer(events[JOB_ID].to_numpy()),
            "weight": actions.to_pandas().map(ACTION_WEIGHTS).astype(float),
            "time": times.cast(pa.int64()).to_numpy(),
        }
    )
    frame = frame[frame["row"] >= 0]
    return frame.sort_values(["time", "member_id", "row", "weight"], ignore_index=True)


def _check_columns(name: str, table: pa.Table, columns: list[str], may_be_null: str = "") -> None:
    """Raise InvalidInput if a column is missing or holds nulls."""
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise InvalidInput(
            f"`{name}` should have the columns {columns}. Received: {table.column_names}, "
            f"without {missing}"
        )
    for column in columns:
        if column != may_be_null and table[column].null_count:
            raise InvalidInput(
                f"`{name}` should have no nulls in `{column}`. "
                f"Received: {table[column].null_count} of {table.num_rows} rows"
            )


def _content(jobs: pd.DataFrame, fitted_on: np.ndarray, seed: int) -> np.ndarray:
    """Return content factors [jobs, components], strongest first, in unit rows.

    Parameters
    ----------
    jobs : pd.DataFrame
        Column `tokens`.
    fitted_on : np.ndarray
        bool [jobs]: the jobs that vocabulary, weights and factors may be learned from.
    seed : int
        Of the SVD.
    """
    vectorizer = TfidfVectorizer(analyzer=_as_is)
    counted = vectorizer.fit_transform(jobs.loc[fitted_on, "tokens"])
    svd = _fit_svd(counted, CONTENT_COMPONENTS, seed)
    known = vectorizer.transform(jobs["tokens"])
    factors = svd.transform(known)
    # A posting that shares no token with any earlier one gets the average content.
    factors[np.diff(known.indptr) == 0] = factors[fitted_on].mean(axis=0)
    return normalize(factors)


def _as_is(tokens: list[str]) -> list[str]:
    """Return the tokens, for a vectorizer whose documents are split already."""
    return tokens


def _behaviour(wanted: pd.DataFrame, content: np.ndarray, dimension: int, seed: int) -> np.ndarray:
    """Return behaviour factors [jobs, dimension] in unit rows, own and predicted ones mixed.

    Parameters
    ----------
    wanted : pd.DataFrame
        One row a member and job, with `member_id`, `row` of the job and a positive `weight`.
    content : np.ndarray
        float [jobs, components], what the factors of jobs with little behaviour are predicted
        from.
    dimension : int
        Number of factors.
    seed : int
        Of the SVD.
    """
    members, columns = np.unique(wanted["member_id"], return_inverse=True)
    # The SVD wants two columns at least, also when there is one member.
    shape = (len(content), max(len(members), 2))
    matrix = sparse.csr_matrix((wanted["weight"], (wanted["row"], columns)), shape=shape)
    support = np.diff(matrix.indptr)
    seen = support > 0

    weighted = TfidfTransformer().fit_transform(matrix[seen])
    factors = _fit_svd(weighted, dimension, seed).transform(weighted)
    centre = StandardScaler(with_std=False).fit(
        normalize(factors), sample_weight=support[seen].astype(float)
    )
    own = np.zeros((len(content), factors.shape[1]))
    own[seen] = normalize(centre.transform(normalize(factors)))

    trust = support / (support + SUPPORT_HALF_WAY)
    ridge = Ridge(alpha=RIDGE_ALPHA).fit(content[seen], own[seen], sample_weight=trust[seen])
    predicted = ridge.predict(content).reshape(own.shape)
    mixed = trust[:, None] * own + (1 - trust[:, None]) * predicted
    return _fit_width(normalize(mixed), dimension)


def _fit_svd(matrix: sparse.csr_matrix, components: int, seed: int) -> TruncatedSVD:
    """Return a truncated SVD of `components`, fewer if the matrix has not as many."""
    svd = TruncatedSVD(min(components, *matrix.shape), n_iter=10, random_state=seed)
    # Rows that are all equal have no variance to explain: a figure that is not used here.
    with np.errstate(invalid="ignore"):
        return svd.fit(matrix)


def _fit_width(matrix: np.ndarray, width: int) -> np.ndarray:
    """Return the first `width` columns, zeros where there are fewer."""
    return np.pad(matrix, ((0, 0), (0, max(width - matrix.shape[1], 0))))[:, :width]


def main(argv: list[str] | None = None) -> None:
    """Write `job_embeddings.parquet` beside the events and postings it was fitted on.

    Parameters
    ----------
    argv : list[str], optional
        Arguments, those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--data", type=Path, required=True, help=f"folder with {EVENTS_FILE} and {POSTINGS_FILE}"
    )
    parser.add_argument(
        "--cutoff",
        type=_utc,
        required=True,
        help="learn from activity before this ISO date or time (UTC if it has no zone)",
    )
    parser.add_argument("--dimension", type=int, default=64, help="length of a vector")
    parser.add_argument("--seed", type=int, default=0, help="of the randomised SVD")
    arguments = parser.parse_args(argv)
    try:
        table = fit_job_embeddings(
            pq.read_table(arguments.data / EVENTS_FILE),
            pq.read_table(arguments.data / POSTINGS_FILE),
            cutoff=arguments.cutoff,
            dimension=arguments.dimension,
            seed=arguments.seed,
        )
    except (InvalidInput, FileNotFoundError) as error:
        parser.error(str(error))
    path = arguments.data / EMBEDDINGS_FILE
    write_job_embeddings(table, path)
    later = pc.sum(pc.greater(table[EVENT_TIMESTAMP], pa.scalar(arguments.cutoff))).as_py()
    print(
        f"{path}: {table.num_rows:,} jobs, {arguments.dimension} dimensions, "
        f"{later:,} of them known only after {arguments.cutoff.isoformat()}"
    )


def _utc(text: str) -> datetime:
    """Return an ISO date or time, as UTC if it has no zone."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


if __name__ == "__main__":
    main()
