"""The two data sets that the demo runs on: rated films, and a simulated job market."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from activity_embeddings.training.datasets.movietweetings import EVENTS_FILE, POSTINGS_FILE
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import real_path

EVENTS_FOLDER = Path(EVENTS_FILE).parent
TRUTH = "truth"


@dataclass(frozen=True)
class Sample:
    """One data set: what it is, and its dates.

    Attributes
    ----------
    name : str.
    description : str. One line for people.
    simulated : bool. Whether members are made up; their truth lies in the folder `truth` then.
    encoder_until : datetime. The item encoder learns before it.
    validate_from : datetime. Models learn before it, and are chosen from it on.
    rank_from : datetime. Models are chosen before it; the ranker learns from it on, and it is the
        first as-of time of the demo.
    test_from, until : datetime. The ranker is tested in between.
    text, categories : columns of the postings that the item encoder reads.
    words : int. Maximum number of words and categories of a posting that are read.
    """

    name: str
    description: str
    simulated: bool
    encoder_until: datetime
    validate_from: datetime
    rank_from: datetime
    test_from: datetime
    until: datetime
    text: tuple[str, ...]
    categories: tuple[str, ...]
    words: int = 32

    def events(self, data: Path) -> pa.Table:
        """Read all events in folder `data`."""
        return ds.dataset(data / EVENTS_FOLDER, format="parquet").to_table()

    def postings(self, data: Path) -> pa.Table:
        """Read all postings in folder `data`."""
        return pq.read_table(data / POSTINGS_FILE)


FILMS = Sample(
    name="films",
    description="MovieTweetings: films stand in for jobs, ratings for actions (a proxy domain)",
    simulated=False,
    encoder_until=datetime(2013, 5, 1, tzinfo=UTC),
    validate_from=datetime(2013, 6, 17, tzinfo=UTC),
    rank_from=datetime(2013, 7, 1, tzinfo=UTC),
    test_from=datetime(2013, 8, 1, tzinfo=UTC),
    until=datetime(2013, 9, 1, tzinfo=UTC),
    text=("title",),
    categories=("genres", "year"),
)
JOBS = Sample(
    name="jobs",
    description="A simulated job market: real occupations, made-up members",
    simulated=True,
    encoder_until=datetime(2024, 2, 12, tzinfo=UTC),
    validate_from=datetime(2024, 3, 18, tzinfo=UTC),
    rank_from=datetime(2024, 3, 25, tzinfo=UTC),
    test_from=datetime(2024, 4, 8, tzinfo=UTC),
    until=datetime(2024, 4, 29, tzinfo=UTC),
    text=("title", "description"),
    categories=("group",),
    words=64,
)
SAMPLES = {sample.name: sample for sample in (FILMS, JOBS)}


def make_market_repo(repo: Path, definitions: Path, examples: Path) -> None:
    """Make a feature repo of the simulated job market: the definitions, its postings, its data.

    Parameters
    ----------
    repo : folder to make; a market in it is removed.
    definitions : the feature repo whose definitions are copied.
    examples : folder of `job_market_vectors.py`, which takes the place of `item_vectors.py`.

    Raises
    ------
    InvalidInput
        There is something else in the folder than a market.
    """
    from activity_embeddings.training.datasets.job_market import JobMarket

    repo = real_path(repo)
    if repo.exists() and (repo.is_file() or any(repo.iterdir())):
        if repo.resolve() == definitions.resolve() or not (repo / "data" / TRUTH).is_dir():
            raise InvalidInput(
                f"{repo}: expected a new folder, or one with a simulated market, which is "
                "replaced. Received: one with something else"
            )
        shutil.rmtree(repo)
    repo.mkdir(parents=True, exist_ok=True)
    for file in (*definitions.glob("*.py"), *definitions.glob("*.yaml")):
        shutil.copy(file, repo)
    shutil.copy(examples / "job_market_vectors.py", repo / "item_vectors.py")
    JobMarket().write(repo / "data")
