"""The two data sets that the demo runs on: rated films as jobs, and a simulated job market."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from activity_embeddings.training.datasets.movietweetings import EVENTS_FILE, POSTINGS_FILE
from activity_embeddings.training.new_repo import render
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import real_path

LEARNED = "cnn"
"""The learned model that is published beside the formulas."""
SERVICE = "recommendations_v2"
"""Its feature service."""
EVENTS_FOLDER = Path(EVENTS_FILE).parent
TRUTH = "truth"


@dataclass(frozen=True)
class Sample:
    """One data set: what it is, and its dates.

    Attributes
    ----------
    name
        Name of the data set.
    description
        One line for people.
    simulated
        Whether members are made up; their truth lies in the folder `truth` then.
    encoder_until
        datetime. The item encoder learns before it.
    validate_from
        datetime. Models learn before it, and are chosen from it on.
    rank_from
        datetime. Models are chosen before it; the ranker learns from it on, and it is the first
        as-of time of the demo.
    test_from, until
        datetime. The ranker is tested in between.
    text, categories
        Columns of the postings that the item encoder reads.
    words
        Maximum number of words and categories of a posting that are read.
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


def make_films_repo(repo: Path, definitions: Path) -> None:
    """Make a feature repo of the films: definitions with a line for the CNN, and their data.

    Parameters
    ----------
    repo
        Folder to make. One that the demo made before is replaced.
    definitions
        The feature repo that is copied.

    Raises
    ------
    InvalidInput
        There is something else in the folder.
    """
    _copy_definitions(repo, definitions, made_before=POSTINGS_FILE)
    for file in (EVENTS_FILE, POSTINGS_FILE):
        (repo / "data" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(definitions / "data" / file, repo / "data" / file)


def make_market_repo(repo: Path, definitions: Path, examples: Path) -> None:
    """Make a feature repo of the simulated job market: the definitions, its postings, its data.

    Parameters
    ----------
    repo
        Folder to make; a market in it is removed.
    definitions
        The feature repo whose definitions are copied.
    examples
        Folder of `job_market_vectors.py`, which takes the place of `item_vectors.py`.

    Raises
    ------
    InvalidInput
        There is something else in the folder than a market.
    """
    from activity_embeddings.training.datasets.job_market import JobMarket

    _copy_definitions(repo, definitions, made_before=TRUTH)
    shutil.copy(examples / "job_market_vectors.py", repo / "item_vectors.py")
    JobMarket().write(repo / "data")


def _copy_definitions(repo: Path, definitions: Path, *, made_before: str) -> None:
    """Copy definitions into a new folder, or one whose data have what an earlier call wrote."""
    repo = real_path(repo)
    if repo.exists() and (repo.is_file() or any(repo.iterdir())):
        if repo == definitions.resolve() or not (repo / "data" / made_before).exists():
            raise InvalidInput(
                f"{repo}: expected a new folder, or one that an earlier demo made, which is "
                "replaced. Received: one with something else"
            )
        shutil.rmtree(repo)
    repo.mkdir(parents=True, exist_ok=True)
    for file in (*definitions.glob("*.py"), *definitions.glob("*.yaml")):
        shutil.copy(file, repo)
    lines, services = repo / "activity_models.py", repo / "services.py"
    lines.write_text(render.activity_models_py(lines.read_text(), LEARNED))
    services.write_text(render.services_py(services.read_text(), SERVICE, LEARNED))
