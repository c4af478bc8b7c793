"""The item encoder: content and behaviour in one vector, learnt from the past alone."""

import shutil
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from activity_embeddings.training.evaluation.contenders import require_earlier
from activity_embeddings.training.examples.held_out import Windows
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.loop import Fit
from activity_embeddings.training.item_encoder.towers import TowerSettings
from activity_embeddings.training.item_encoder.train import (
    EncoderPlan,
    train_towers,
)
from activity_embeddings.training.models import CNN
from activity_embeddings.training.objectives import FuturePositives, NextPositive
from activity_embeddings.training.packaging import package_item_encoder
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.inference.encoder import ItemEncoder as LoadedEncoder
from activity_embeddings.transformations.inference.encoder import encode_postings
from activity_embeddings.transformations.spec import ActivitySpec
from support.training_data import EPOCH, day, without_graphs

pytestmark = pytest.mark.slow

INTEGER = pa.int64()
ITEMS = 60
UNTIL = day(40)
COLD = 6
"""Items that nobody acts on before `UNTIL`."""
OPTIONS = {
    "dimension": 8,
    "towers": TowerSettings(categories=("genres", "year"), buckets=512, hidden=8, dropout=0.0),
    "objective": FuturePositives(windows=Windows(minimum=1, prefixes=True), targets=2),
    "fit": Fit(epochs=4, batch_size=128, learning_rate=1e-2),
}


def plan(until=UNTIL, **changes):
    return EncoderPlan(until, **{**OPTIONS, **changes})


def postings(ids=INTEGER):
    """Half of the items are for cooks and half for drivers; the last six of them are cold."""
    kinds = [("cook", "kitchen"), ("driver", "road")]
    return pa.table(
        {
            "job_id": pa.array(range(ITEMS)).cast(ids),
            "title": [f"{kinds[j % 2][0]} number{j}" for j in range(ITEMS)],
            "genres": [[kinds[j % 2][1]] for j in range(ITEMS)],
            "year": [2010 + j % 3 for j in range(ITEMS)],
            "event_timestamp": pa.array([EPOCH] * ITEMS, pa.timestamp("us", "UTC")),
        }
    )


def events(members=60, per_member=12, days=40, seed=0, ids=INTEGER):
    """Members want items of one kind, and dismiss the other one."""
    random = np.random.default_rng(seed)
    rows = []
    for member in range(members):
        for _ in range(per_member):
            item = int(random.integers(0, ITEMS - COLD))
            action = "APPLY" if item % 2 == member % 2 else "DISMISS"
            if action == "DISMISS" and random.random() < 0.7:
                continue
            rows.append((member, item, action, day(float(random.uniform(0, days)))))
    member_ids, items, actions, times = zip(*rows, strict=True)
    return pa.table(
        {
            "member_id": pa.array(member_ids, pa.int64()),
            "job_id": pa.array(items).cast(ids),
            "action": pa.array(actions),
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


def encode(module, table):
    """Return unit vectors of postings, by the module that is packaged."""
    given = {}
    for name in module.columns:
        column = table.column(name).combine_chunks()
        if pa.types.is_list(column.type):
            given[name] = tf.ragged.constant(column.to_pylist(), tf.string).to_tensor("")
        else:
            given[name] = tf.constant(column.to_pylist(), module.columns[name].dtype)
    return module.serve(*given.values())["embedding"].numpy()


def encoder_of(*given, **settings):
    """Train both towers; return the encoder and the facts."""
    towers = train_towers(*given, **settings)
    return towers.encoder, towers.facts


BRIEF = plan(fit=replace(OPTIONS["fit"], epochs=1))
"""For what depends on the data alone."""


@pytest.fixture(scope="module")
def trained():
    return encoder_of(events(), postings(), plan())


@pytest.fixture
def eager():
    with without_graphs():
        yield


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    """A short training, what it found, and its run."""
    run = tmp_path_factory.mktemp("brief")
    with without_graphs():
        module, facts = encoder_of(events(), postings(), BRIEF, run=run)
    return module, facts, run


def mean_cosines(vectors):
    """Return the mean cosine of items of one kind, and of two kinds."""
    cosines = vectors @ vectors.T
    same = np.arange(len(vectors))[:, None] % 2 == np.arange(len(vectors)) % 2
    off = ~np.eye(len(vectors), dtype=bool)
    return cosines[same & off].mean(), cosines[~same].mean()


def test_vectors_are_unit_and_tell_apart_what_members_tell_apart(trained):
    vectors = encode(trained[0], postings())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    same, other = mean_cosines(vectors)
    assert same > other + 0.5


def test_a_item_that_nobody_acted_on_is_placed_by_its_content(trained):
    cold = postings().slice(ITEMS - COLD)
    # Its own name means nothing, and neither does its number.
    unknown = cold.set_column(0, "job_id", pa.array(range(1000, 1000 + COLD)))
    np.testing.assert_array_equal(encode(trained[0], cold), encode(trained[0], unknown))
    known = encode(trained[0], postings().slice(0, ITEMS - COLD))
    cosines = encode(trained[0], cold) @ known.T
    same = np.arange(COLD)[:, None] % 2 == np.arange(ITEMS - COLD) % 2
    assert cosines[same].mean() > cosines[~same].mean() + 0.4


def test_two_items_of_the_same_content_differ_by_who_wants_them(trained):
    twin = postings().slice(0, 2)
    twin = twin.set_column(1, "title", pa.array(["cook", "cook"]))
    twin = twin.set_column(2, "genres", pa.array([["kitchen"], ["kitchen"]]))
    twin = twin.set_column(3, "year", pa.array([2010, 2010]))
    one, other = encode(trained[0], twin)
    assert np.abs(one - other).max() > 1e-3


def test_nothing_at_or_after_the_end_is_read(brief, eager):
    later = events(seed=5)
    times = later.column("event_timestamp").to_pylist()
    moved = later.set_column(
        3,
        "event_timestamp",
        pa.array([t + timedelta(days=40) for t in times], pa.timestamp("us", "UTC")),
    )
    module, facts = encoder_of(pa.concat_tables([moved, events()]), postings(), BRIEF)
    np.testing.assert_array_equal(encode(module, postings()), encode(brief[0], postings()))
    assert facts == brief[1]


def test_of_a_items_postings_the_newest_before_the_end_is_read(brief, eager):
    """In whatever order they come: older ones are superseded, later ones are not known yet."""

    def at_other_times(moment):
        wrong = postings().set_column(1, "title", pa.array(["driver"] * ITEMS))
        times = pa.array([moment] * ITEMS, pa.timestamp("us", "UTC"))
        return wrong.set_column(4, "event_timestamp", times)

    earlier, later = at_other_times(EPOCH - timedelta(days=1)), at_other_times(UNTIL)
    unseen = postings().slice(0, 1).set_column(0, "job_id", pa.array([ITEMS])).slice(0, 1)
    unseen = unseen.set_column(4, "event_timestamp", pa.array([UNTIL], pa.timestamp("us", "UTC")))
    for order in ([later, postings(), earlier, unseen], [unseen, earlier, postings(), later]):
        module, facts = encoder_of(events(), pa.concat_tables(order), BRIEF)
        assert facts == brief[1]
        np.testing.assert_array_equal(encode(module, postings()), encode(brief[0], postings()))


@pytest.mark.parametrize("posted", [EPOCH, day(30)])
def test_when_to_stop_is_told_by_postings_of_before_the_days_that_are_asked_about(
    brief, eager, posted
):
    """Of an item that is first posted on these days by its first one; the vectors read the last."""

    def at_time(table, moment):
        times = pa.array([moment] * ITEMS, pa.timestamp("us", "UTC"))
        return table.set_column(4, "event_timestamp", times)

    edited = at_time(postings().set_column(1, "title", pa.array(["novel"] * ITEMS)), day(35))
    both = pa.concat_tables([edited, at_time(postings(), posted)])
    module, facts = encoder_of(events(), both, BRIEF)
    assert facts["training"]["history"] == brief[1]["training"]["history"]
    only, _ = encoder_of(events(), edited, BRIEF)
    np.testing.assert_array_equal(encode(module, postings()), encode(only, postings()))
    assert np.abs(encode(module, postings()) - encode(brief[0], postings())).max() > 1e-3


def test_another_seed_gives_other_vectors(brief, eager):
    other = replace(BRIEF, fit=replace(BRIEF.fit, seed=1))
    module, _ = encoder_of(events(), postings(), other)
    assert np.abs(encode(module, postings()) - encode(brief[0], postings())).max() > 1e-3


def test_facts_say_what_was_done(trained):
    facts = trained[1]
    assert facts["training"]["end"] == UNTIL.isoformat()
    start = facts["training"]["start"]
    assert facts["training"]["period"] == {"start": start, "end": day(26).isoformat()}
    assert facts["training"]["validation"] == Period(day(26), UNTIL).to_dict()
    assert facts["training"]["refit"] is True
    assert facts["training"]["epochs"] <= 4
    assert facts["training"]["examples"]["examples"]["all"] > 0
    assert facts["parameters"]["encoder"]["categories"] == ["genres", "year"]
    assert 0 < facts["metrics"]["validation"]["ndcg_at_10"] <= 1


def test_an_evaluation_does_not_rank_days_that_the_towers_learned_from(brief):
    require_earlier("together", brief[1], UNTIL, "it is tested")
    with pytest.raises(InvalidInput, match=r"saw labels until 1970-02-10"):
        require_earlier("together", brief[1], UNTIL - timedelta(days=1), "it is tested")


def test_packaged_it_gives_the_same_vectors_from_its_last_day_on(trained, tmp_path):
    module, facts = trained
    described = package_item_encoder(
        module, tmp_path / "encoder", name="items", version="2", valid_from=UNTIL, **facts
    )
    assert set(described.inputs) == {"job_id", "title", "genres", "year"}
    table = encode_postings(LoadedEncoder(described), postings())
    vectors = np.array(table.column("embedding").to_pylist(), np.float32)
    np.testing.assert_allclose(vectors, encode(module, postings()), atol=1e-6)
    assert set(table.column("event_timestamp").to_pylist()) == {UNTIL}


def test_ids_may_be_strings(tmp_path, eager):
    module, facts = encoder_of(
        events(ids=pa.string()), postings(pa.string()), plan(fit=Fit(epochs=1))
    )
    described = package_item_encoder(
        module, tmp_path / "encoder", name="items", version="1", valid_from=UNTIL, **facts
    )
    table = encode_postings(LoadedEncoder(described), postings(pa.string()))
    assert table.column("job_id").type == pa.string()
    assert len(table) == ITEMS


def test_words_start_where_semantic_analysis_puts_them():
    encoder = TowerSettings(buckets=64)
    tokens = np.array([[1, 2, 0], [1, 3, 0], [4, 5, 0], [4, 6, 0]], np.int32)
    words = encoder.semantic_words(tokens, 4, seed=0)
    assert words.shape == (65, 4)
    bags = np.stack([words[row[row > 0]].sum(axis=0) for row in tokens])
    bags /= np.linalg.norm(bags, axis=1, keepdims=True)
    cosines = bags @ bags.T
    assert cosines[0, 1] > 0.3 > 0.01 > abs(cosines[0, 2])
    assert (words[7:] == 0).all() and (words[0] == 0).all()


def test_tokens_are_of_their_column_and_categories_come_first():
    encoder = TowerSettings(tokens=4)
    columns = {
        "title": tf.constant(["Jazz, jazz & Café", "a b c d e f"]),
        "genres": tf.constant([["jazz", ""], ["x", "y"]]),
        "year": tf.constant([1999, 2000], tf.int64),
    }
    tokens = encoder.tokens_of(columns).numpy()
    assert tokens.shape == (2, 4)
    genre, year, *words = tokens[0]
    # The word and the genre of one spelling are two things; one word twice is one.
    assert words[0] == words[1]
    assert len({genre, year, words[0]}) == 3
    assert (tokens > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns("title"), r"postings: column 'title' is missing"),
        (
            lambda t: t.set_column(1, "title", pa.array([None] * ITEMS, pa.string())),
            r"postings: column 'title' should hold no nulls",
        ),
        (
            lambda t: t.set_column(1, "title", pa.array([0.5] * ITEMS)),
            r"postings: column 'title' should be string.*Received: double",
        ),
    ],
)
def test_malformed_postings_are_one_clear_error(change, message):
    with pytest.raises(InvalidInput, match=message):
        encoder_of(events(), change(postings()), plan())


def test_too_little_activity_is_one_clear_error():
    with pytest.raises(InvalidInput, match=r"expected .*Received: "):
        encoder_of(events(), postings(), plan(until=day(0)))
    few = events(members=1, per_member=3)
    with pytest.raises(InvalidInput, match=r"expected .*Received: "):
        encoder_of(few, postings(), plan())
    with pytest.raises(InvalidInput, match=r"`until` should have a time zone"):
        encoder_of(events(), postings(), plan(until=UNTIL.replace(tzinfo=None)))
    with pytest.raises(InvalidInput, match=r"`until` should be a datetime.*Received: 'soon'"):
        encoder_of(events(), postings(), plan(until="soon"))


def test_a_killed_training_is_resumed(brief, eager, tmp_path):
    whole, facts, run = brief
    # As if killed in the second phase, with the first one done.
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "final" / "checkpoint.npz").unlink()
    again, same = encoder_of(events(), postings(), BRIEF, run=tmp_path / "run")
    assert same == facts
    np.testing.assert_array_equal(encode(again, postings()), encode(whole, postings()))


def swapped(table, action, other):
    column = table.column("action").to_pylist()
    names = {action: other, other: action}
    return table.set_column(2, "action", pa.array([names.get(name, name) for name in column]))


NOVELS = postings().set_column(1, "title", pa.array(["novel"] * ITEMS))


@pytest.mark.parametrize(
    ("data", "change"),
    [
        ((events(), NOVELS), {}),
        ((swapped(events(), "APPLY", "DISMISS"), postings()), {}),
        ((events(), postings()), {"spec": ActivitySpec(positive_actions=("DISMISS",))}),
        ((events(), postings()), {"dimension": 4}),
        ((events(), postings()), {"validation_days": 7.0}),
    ],
    ids=["titles", "actions", "positive actions", "dimension", "validation days"],
)
def test_a_run_of_other_data_or_settings_is_refused_and_left_alone(brief, eager, data, change):
    _, _, run = brief
    before = {file: file.read_bytes() for file in run.rglob("*.npz")}
    with pytest.raises(InvalidInput, match=r"expected a checkpoint of this run.*Name another"):
        train_towers(*data, replace(BRIEF, **change), run=run)
    assert len(before) == 2 and before == {f: f.read_bytes() for f in run.rglob("*.npz")}


def test_a_killed_training_is_resumed_although_new_members_came_after_its_end(
    brief, eager, tmp_path
):
    shutil.copytree(brief[2], tmp_path / "run")
    (tmp_path / "run" / "final" / "checkpoint.npz").unlink()
    late = events().slice(0, 1)
    late = late.set_column(0, "member_id", pa.array([-1], pa.int64()))
    late = late.set_column(3, "event_timestamp", pa.array([UNTIL], pa.timestamp("us", "UTC")))
    grown = pa.concat_tables([late, events()])
    again, same = encoder_of(grown, postings(), BRIEF, run=tmp_path / "run")
    assert same == brief[1]
    np.testing.assert_array_equal(encode(again, postings()), encode(brief[0], postings()))


def walks(members=120, steps=8):
    """Items of one content; what comes next depends on the item and on what was done with it."""
    random = np.random.default_rng(1)
    after = {action: random.permutation(ITEMS) for action in ("APPLY", "DISMISS")}
    rows = []
    for member in range(members):
        item, start = int(random.integers(ITEMS)), float(random.uniform(0, 39))
        for step in range(steps):
            action = str(random.choice(["APPLY", "DISMISS"]))
            rows.append((member, item, action, day(start + step / 1e3)))
            item = int(after[action][item])
    member_ids, item_ids, actions, times = zip(*rows, strict=True)
    same = pa.array(["alike"] * ITEMS)
    history = pa.table(
        {
            "member_id": pa.array(member_ids, pa.int64()),
            "job_id": pa.array(item_ids, INTEGER),
            "action": pa.array(actions),
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )
    return history, postings().set_column(1, "title", same), after


def test_with_a_network_vectors_say_what_follows_what_and_the_network_reads_them():
    towers = TowerSettings(categories=("year",), buckets=64, hidden=8, dropout=0.0, id_dropout=0.0)
    fit = Fit(epochs=8, patience=8, batch_size=64, learning_rate=2e-2)
    objective = NextPositive(other_weight=1.0)
    settings = {"towers": towers, "fit": fit, "objective": objective, "dimension": 16}
    history, items, after = walks()
    network = CNN(filters=8, convolutions=1, dropout=0.0)
    trained = train_towers(history, items, plan(network=network, **settings))
    assert trained.facts["parameters"]["network"] == {"architecture": "cnn", **network.to_dict()}
    # The tower that is handed out is the one that was trained: it finds what follows.
    vectors = encode(trained.encoder, items)
    inputs = {
        "item_embeddings": np.zeros((ITEMS, 32, 16), np.float32),
        "actions": np.zeros((ITEMS, 32), np.int32),
    }
    inputs["item_embeddings"][:, -1] = vectors
    for action in ("APPLY", "DISMISS"):
        inputs["actions"][:, -1] = plan().spec.vocabulary.index(action)
        embedding = trained.member_tower.predict(inputs, verbose=0)["activity_embedding"]
        assert ((embedding @ vectors.T).argmax(axis=1) == after[action]).mean() > 0.5
