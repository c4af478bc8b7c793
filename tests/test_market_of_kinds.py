"""The simulated market with all kinds of activity as a feature repo, by one encoder of texts."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from activity_embeddings.training.datasets.job_market import JobMarket
from activity_embeddings.training.datasets.sample import JOBS
from activity_embeddings.training.evaluation.data import posted_at, true_item_vectors
from activity_embeddings.training.evaluation.from_repo import read_data
from activity_embeddings.training.evaluation.queries import ranking_queries
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.models import InterleavedDecay
from activity_embeddings.training.new_repo.create import write_definitions
from activity_embeddings.training.packaging import package_item_encoder, package_model
from activity_embeddings.transformations.spec import ActivitySpec
from support.feast_repo import Repo

pytestmark = pytest.mark.slow

MARKET = JobMarket(members=150, passive=50, jobs=300, days=40, posts=200, seed=2)
DIMENSION = 8
KINDS = {"search": ("SEARCH",), "status": ("OPEN_TO_WORK", "NEW_TITLE"), "post": ("READ",)}
SPEC = ActivitySpec.of_kinds(
    {
        "job": ActivitySpec(),
        **{kind: ActivitySpec(actions=a, positive_actions=()) for kind, a in KINDS.items()},
    },
    {"job": 16},
)
KINDS_PY = """
from entities import member
from feast import Entity, Field, FileSource
from feast.types import Array, Int64, String
from feast.value_type import ValueType
from sources import REPO, SPEC

from activity_embeddings import ActivitySpec, activity_view, encoded_vector_view, posting_view


def source(name, path):
    return FileSource(name=name, path=path, timestamp_field="event_timestamp")


def views_of(kind, of_ids, *actions):
    item = Entity(name=kind, join_keys=[f"{kind}_id"], value_type=of_ids)
    events = activity_view(
        source(f"{kind}_events", f"data/{kind}_events"),
        member=member,
        item=item,
        spec=ActivitySpec(SPEC.window, SPEC.length, actions, ()),
        action="action",
    )
    texts = posting_view(
        source(f"{kind}_items", f"data/{kind}_items.parquet"),
        item=item,
        schema=[
            Field(name="job_id", dtype=Int64),
            Field(name="title", dtype=String),
            Field(name="description", dtype=String),
            Field(name="group", dtype=Array(String)),
        ],
    )
    encoder = REPO / "models" / "item_encoder"
    vectors = encoded_vector_view(encoder, postings=texts, item=item, repo=REPO)
    return item, events, texts, vectors


search, searches, queries, search_vectors = views_of("search", ValueType.STRING, "SEARCH")
status, statuses, titles, status_vectors = views_of(
    "status", ValueType.STRING, "OPEN_TO_WORK", "NEW_TITLE"
)
post, reading, posts, post_vectors = views_of("post", ValueType.INT64, "READ")
"""


class TextEncoder(tf.Module):
    """Lengths of the texts; a job has a value of its own, as an item that an encoder knows has."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, "job_id"),
            tf.TensorSpec([None], tf.string, "title"),
            tf.TensorSpec([None], tf.string, "description"),
            tf.TensorSpec([None, None], tf.string, "group"),
        ]
    )
    def serve(self, job_id, title, description, group):
        of_text = [tf.strings.length(title), tf.strings.length(description)]
        of_text.append(tf.reduce_sum(tf.strings.length(group), axis=1))
        values = [tf.cast(job_id, tf.float32), *(tf.cast(v, tf.float32) for v in of_text)]
        return {"embedding": tf.pad(tf.stack(values, axis=1), [[0, 0], [0, DIMENSION - 4]])}


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    repo = Repo(tmp_path_factory.mktemp("market") / "repo")
    repo.path.mkdir()
    write_definitions(repo.path, JOBS.settings)
    MARKET.write(repo.data, kinds=True)
    encoder = package_item_encoder(
        TextEncoder(),
        repo.path / "models" / "item_encoder",
        name="texts",
        version="1",
        valid_from=MARKET.start,
    )
    every_kind = InterleavedDecay(r=0.8, kinds=("job", *KINDS))
    package_model(
        every_kind.build(SPEC, encoder.vector_spec),
        repo.path / "models" / "every_kind",
        name="every_kind",
        version="1",
        spec=SPEC,
        vector_spec=encoder.vector_spec,
    )
    (repo.path / "kinds.py").write_text(KINDS_PY)
    (repo.path / "services.py").unlink()
    repo.edit("activity_models.py", "unweighted_average", "every_kind")
    repo.edit("activity_models.py", '    ActivityModel(MODELS / "geometric_decay"),\n', "")
    repo.edit("views.py", "activity=activity", "activity=[activity, searches, statuses, reading]")
    every = "[vectors, search_vectors, status_vectors, post_vectors]"
    repo.edit("views.py", "vectors=vectors,", f'vectors={every},\n    keep={{"job": 16}},')
    repo.edit("views.py", "from sources", "from kinds import *\nfrom sources")
    repo.run("apply")
    return repo


def test_an_evaluation_reads_all_kinds_and_asks_about_jobs(repo):
    end = MARKET.start + timedelta(days=MARKET.days)
    data = read_data(repo.store, until=end, truth=repo.data / "truth")
    assert data.simulated and data.category_columns == ("group",)
    history = data.history
    assert history.spec == SPEC
    events = {k: ds.dataset(repo.data / f"{k}_events").to_table() for k in KINDS}
    jobs = ds.dataset(repo.data / "activity_events").to_table()
    assert len(history.events) == len(jobs) + sum(map(len, events.values()))
    # A text has the same vector as a query and in a posting, but for what is an item's own.
    ids, vectors = history.vectors.item_ids.to_pylist(), history.vectors.matrix
    queries = pq.read_table(repo.data / "search_items.parquet").to_pylist()
    title = queries[0]["title"]
    of_query = vectors[history.vectors.start[ids.index(f"search:{title}")]]
    np.testing.assert_array_equal(of_query[:4], [-1, len(title), len(title), 0])
    posting = MARKET.postings().to_pylist()[6]
    of_job = vectors[history.vectors.start[ids.index("job:7")]]
    group = sum(map(len, posting["group"]))
    lengths = [len(posting[column].encode()) for column in ("title", "description")]
    np.testing.assert_array_equal(of_job[:4], [7, *lengths, group])
    # What is known of jobs finds them under the ids that they have beside other kinds.
    own = history.own_items
    assert len(own) == MARKET.jobs
    assert true_item_vectors(data)[own].any(axis=1).all()
    assert not np.delete(true_item_vectors(data), own, axis=0).any()
    assert posted_at(data)[own].min() < int(MARKET.start.timestamp()) * 1_000_000
    asked = ranking_queries(history, Period(MARKET.start.replace(day=20), end))
    assert np.isin(asked.item, own).all()


def test_members_without_any_job_activity_are_published(repo):
    end = MARKET.start.replace(day=25)
    repo.materialize(MARKET.start.replace(day=24), end)
    snapshots = repo.data / "snapshots"
    sequences = ds.dataset(snapshots / "job_activity_sequence", exclude_invalid_files=True)
    table = sequences.to_table(columns=["member_id", "activity_job_ids"])
    before = pc.field("event_timestamp") < pa.scalar(end, pa.timestamp("us", "UTC"))
    jobs = ds.dataset(repo.data / "activity_events").to_table(filter=before)
    member = table["member_id"].to_numpy()
    without = ~np.isin(member, jobs["member_id"].to_numpy())
    kinds = {
        item.split(":")[0]
        for ids in table.filter(pa.array(without))["activity_job_ids"].to_pylist()
        for item in ids
    }
    assert without.sum() > 30 and kinds == set(KINDS)
    folder = snapshots / "job_activity_embedding_every_kind"
    columns = ["member_id", "activity_embedding"]
    embeddings = ds.dataset(folder, exclude_invalid_files=True).to_table(columns=columns)
    of_members = embeddings.to_pandas().set_index("member_id")["activity_embedding"]
    assert np.stack(of_members.loc[member[without]]).any(axis=1).all()
