"""A small item encoder for tests, postings for it, and what they should give, by plain numpy."""

import shutil

import numpy as np
import pyarrow as pa
import tensorflow as tf

from activity_embeddings.training.models import GeometricDecay, UnweightedAverage
from activity_embeddings.training.packaging import package_item_encoder, package_model
from activity_embeddings.transformations.spec import ActivitySpec
from support.feast_repo import DIMENSION, at, us

NAME = "content"
VALID_FROM = at(-30)
CODES = np.random.default_rng(3).normal(size=(3, DIMENSION)).astype(np.float32)


class SmallEncoder(tf.Module):
    """`embedding` = scale * tanh of lengths of title and genres, and the year, times CODES."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = tf.Variable(scale)
        self.codes = tf.Variable(CODES)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "title"),
            tf.TensorSpec([None, None], tf.string, "genres"),
            tf.TensorSpec([None], tf.int64, "year"),
        ]
    )
    def serve(self, title, genres, year):
        counts = tf.stack(
            [
                tf.cast(tf.strings.length(title), tf.float32) / 10,
                tf.cast(tf.reduce_sum(tf.strings.length(genres), axis=1), tf.float32) / 10,
                tf.cast(year - 2000, tf.float32) / 10,
            ],
            axis=1,
        )
        return {"embedding": self.scale * tf.tanh(counts @ self.codes)}


def vector_of(title, genres, year, scale=1.0):
    """What `SmallEncoder` gives for one posting."""
    counts = np.array([len(title), sum(map(len, genres)), year - 2000], dtype=np.float32) / 10
    return scale * np.tanh(counts @ CODES)


def package_encoder(path, encoder=None, **changes):
    facts = {"name": NAME, "version": "1", "valid_from": VALID_FROM, **changes}
    return package_item_encoder(encoder or SmallEncoder(), path, **facts)


class NewestItem(tf.Module):
    """A model in the CNN's place: the vector of the newest item."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 32, DIMENSION], tf.float32, "item_embeddings"),
            tf.TensorSpec([None, 32], tf.int32, "actions"),
        ]
    )
    def serve(self, item_embeddings, actions):
        return {"activity_embedding": item_embeddings[:, -1]}


def package_all(folder, encoder=None, **changes):
    """Package an item encoder, and the three models of the feature repo for its vectors.

    Those that were there are removed before: others of their version would be refused.
    """
    shutil.rmtree(folder, ignore_errors=True)
    described = package_encoder(folder / "item_encoder", encoder, **changes)
    spec, vector_spec = ActivitySpec(), described.vector_spec
    for name, model in {
        "unweighted_average": UnweightedAverage().build(spec, vector_spec),
        "geometric_decay": GeometricDecay(r=0.8).build(spec, vector_spec),
        "cnn": NewestItem(),
    }.items():
        package_model(
            model, folder / name, name=name, version="1", spec=spec, vector_spec=vector_spec
        )
    return described


def small_postings(items=30):
    """Return (item_id, time, title, genres, year) rows with the cases that matter.

    Some items are posted late, some get a second version, some had two before the encoder was
    valid, one has no genres.
    """
    rows = []
    for item in range(1, items + 1):
        genres = ["drama", "war", "short"][: item % 4]
        since = at(-40) if item % 5 else at(-5 + item / 3)
        rows.append((item, since, "x" * (3 + item), genres, 1990 + item))
        if item % 11 == 0:
            rows.append((item, at(5), "y" * item, [*genres, "new"], 2010))
        if item % 7 == 0:
            rows.append((item, at(-35), "z" * (40 + item), genres, 2011))
    return rows


def postings_table(rows):
    """Return such rows as a source of postings."""
    items, times, titles, genres, years = zip(*rows, strict=True)
    return pa.table(
        {
            "job_id": pa.array(items, pa.int64()),
            "title": pa.array(titles, pa.string()),
            "genres": pa.array(genres, pa.list_(pa.string())),
            "year": pa.array(years, pa.int32()),
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


def expected_vectors(rows, end, *, valid_from=VALID_FROM, scale=1.0):
    """Return {(item, time): vector} that an encoder should have published by a time.

    The slow way: at every time at which anything can change, look at each item's newest posting.
    """
    found = {}
    moments = {valid_from, *(time for _, time, *_ in rows if time > valid_from)}
    for moment in sorted(m for m in moments if valid_from <= m <= end):
        for item in {item for item, *_ in rows}:
            known = [row for row in rows if row[0] == item and row[1] <= moment]
            if not known:
                continue
            _, time, title, genres, year = max(known, key=lambda row: row[1])
            found[item, max(time, valid_from)] = vector_of(title, genres, year, scale)
    return found


def as_reference(vectors):
    """Return `expected_vectors` as `reference` takes them."""
    return [(item, us(time), vector.tolist()) for (item, time), vector in vectors.items()]
