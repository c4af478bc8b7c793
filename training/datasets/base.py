"""What a data set of the package is: its files, its columns and its dates.

A data set is one module: it makes a `Sample`, and `sample.SAMPLES` lists it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from activity_embeddings.training.new_repo.settings import Content, PostingSource, RepoSettings
from activity_embeddings.transformations.names import ACTION, EVENT_TIMESTAMP, ITEM_ID, MEMBER_ID

EVENTS_FILE = "activity_events/history.parquet"
POSTINGS_FILE = "job_postings.parquet"
README_FILE = "README.md"
TRUTH = "truth"
"""Folder of what is known of members who are made up."""

EVENTS_SCHEMA = pa.schema(
    [
        (MEMBER_ID, pa.int64()),
        (ITEM_ID, pa.int64()),
        (ACTION, pa.string()),
        (EVENT_TIMESTAMP, pa.timestamp("us", tz="UTC")),
    ]
)


def postings_of(*content: tuple[str, str]) -> PostingSource:
    """Return the source of postings with these columns, each a name and its type in Feast."""
    return PostingSource(content=tuple(Content(*column) for column in content))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One data set: what it is, and its dates.

    Attributes
    ----------
    name
        Name of the data set.
    description
        One line for people. Of a proxy domain it says so: it stands beside every figure.
    encoder_until
        datetime. The item encoder learns before it.
    validate_from
        datetime. Models learn before it, and are chosen from it on.
    rank_from
        datetime. Models are chosen before it; the ranker learns from it on.
    test_from, until
        datetime. The ranker is tested in between.
    text, categories
        Columns of the postings that the item encoder reads.
    words
        Maximum number of words and categories of a posting that are read.
    buckets
        Number of vectors that words and categories are hashed into.
    encoder_with_network
        Whether the item encoder is trained together with a CNN; else with a decaying average.
    other_weight
        How much activity that is not positive weighs, as what came next, in the training of
        networks; see `FuturePositives`.
    fit
        Settings of `Fit` that are not its defaults.
    settings
        What its feature repo says: types of ids, actions, columns of the postings.
    as_of
        As of when its members' values are measured: `published`, or `request` where few members
        come back after a daily run.
    folder
        Where in the package `activity_embeddings` its files lie, beside their licence.
    simulated
        Whether members are made up; their truth lies in the folder `truth` then.
    """

    name: str
    description: str
    encoder_until: datetime
    validate_from: datetime
    rank_from: datetime
    test_from: datetime
    until: datetime
    text: tuple[str, ...]
    categories: tuple[str, ...]
    words: int = 32
    buckets: int = 1 << 14
    encoder_with_network: bool = False
    other_weight: float = 0.0
    fit: Mapping[str, Any] = field(default_factory=dict)
    settings: RepoSettings = field(default_factory=RepoSettings)
    as_of: str = "published"
    folder: str = ""
    simulated: bool = False

    def write(self, data: Path) -> None:
        """Write events and postings, with what says where they are from, into folder `data`."""
        with self.packaged() as source:
            paths = [source / EVENTS_FILE, source / POSTINGS_FILE, source / README_FILE]
            for path in [*paths, *source.glob("LICENSE*")]:
                target = data / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)

    def packaged(self) -> AbstractContextManager[Path]:
        """Return the folder of its files."""
        return as_file(files("activity_embeddings").joinpath(self.folder))

    def events(self, data: Path) -> pa.Table:
        """Read all events in folder `data`."""
        return ds.dataset((data / EVENTS_FILE).parent, format="parquet").to_table()

    def postings(self, data: Path) -> pa.Table:
        """Read all postings in folder `data`."""
        return pq.read_table(data / POSTINGS_FILE)
