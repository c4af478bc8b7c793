"""Why a member's embeddings are what they are, through the real stores, held to slow oracles."""

import functools
import json
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from click.testing import CliRunner

import activity_embeddings
from activity_embeddings import (
    ActivitySpec,
    InvalidInput,
    InvalidRequest,
    ItemVectorSpec,
    entity_rows,
)
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.cli import cli
from support.domains import add_courses
from support.feast_repo import at, small_data, small_repo, us, vectors_table
from support.reference import decayed_of, sequence, vector_as_of

pytestmark = pytest.mark.slow

T = at(4)
BUSY, SILENT, UNKNOWN = 21, 42, 999
LENGTH = 32
WINDOW_US = 28 * 86_400_000_000
OUTPUTS = [
    ("cnn", "activity_embedding"),
    *(("geometric_decay", f"{a}_embedding") for a in ("apply", "dismiss", "save")),
    ("short", "first_four"),
    *(("unweighted_average", f"{a}_embedding") for a in ("apply", "dismiss", "save")),
]
TITLE = "Director & <i>Head</i> of {}"


class Short(tf.Module):
    """Sums, of which it gives the first four values: not of the length of item vectors."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, LENGTH, 64], tf.float32, "item_embeddings"),
            tf.TensorSpec([None, LENGTH], tf.int32, "actions"),
        ]
    )
    def serve(self, item_embeddings, actions):
        return {"first_four": tf.reduce_sum(item_embeddings, axis=1)[:, :4]}


@pytest.fixture(scope="module")
def data():
    events, vectors = small_data()
    as_dicts = [
        {"member_id": m, "job_id": j, "action": a, "time": us(moment)} for m, j, a, moment in events
    ]
    return as_dicts, [(item, us(since), vector) for item, since, vector in vectors]


@pytest.fixture(scope="module")
def repo(tmp_path_factory, models):
    """Published as of T: jobs whose source of vectors has titles, and courses beside them."""
    repo = small_repo(tmp_path_factory.mktemp("explain") / "repo", models)
    table = vectors_table(small_data()[1])
    titles = [TITLE.format(job) if job != 7 else None for job in table["job_id"].to_pylist()]
    repo.write_vectors(table.append_column("title", pa.array(titles)))
    package_model(
        Short(),
        repo.path / "models" / "short",
        name="short",
        version="1",
        spec=ActivitySpec(),
        vector_spec=ItemVectorSpec("content_and_behaviour", "1", 64),
        litert=False,
    )
    line = '    ActivityModel(MODELS / "cnn"),\n'
    repo.edit("activity_models.py", line, line + '    ActivityModel(MODELS / "short"),\n')
    add_courses(repo, [(3, "c1", "ENROL", at(2)), (3, "c2", "LEAVE", at(3))])
    repo.publish(at(-51), T)
    return repo


@pytest.fixture(scope="module")
def store(repo):
    return repo.store


def explain(store, member, **arguments):
    return activity_embeddings.explain(store, member, **{"item": "job", **arguments})


def output_of(explanation, model, output):
    (found,) = [o for o in explanation.outputs if (o.model, o.output) == (model, output)]
    return found


def activities_of(explanation):
    return [(a.item, a.action, us(a.time)) for a in explanation.activities]


@functools.cache
def loaded(path):
    return tf.saved_model.load(str(path))


def embed(repo, model, activities, vectors, as_of):
    """Return the outputs of a SavedModel for one list of activities, built by hand."""
    given = np.zeros((1, LENGTH, 64), np.float32)
    actions = np.zeros((1, LENGTH), np.int32)
    for place, (item, action, _) in enumerate(activities, start=LENGTH - len(activities)):
        given[0, place] = vector_as_of(vectors, item, as_of)
        actions[0, place] = ["PAD", "APPLY", "SAVE", "DISMISS"].index(action)
    got = loaded(repo.path / "models" / model).signatures["serving_default"](
        item_embeddings=tf.constant(given), actions=tf.constant(actions)
    )
    return {name: value.numpy()[0] for name, value in got.items()}


def cosines(vector, vectors, without, as_of):
    """Return each item's cosine, best first, by one loop; none for the zero vector."""
    found = {}
    for item in {item for item, since, _ in vectors if since <= as_of} - set(without):
        other = vector_as_of(vectors, item, as_of).astype(np.float64)
        lengths = np.linalg.norm(other) * np.linalg.norm(vector)
        if lengths > 1e-9:
            found[item] = float(other @ vector.astype(np.float64) / lengths)
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


@pytest.mark.parametrize("member", [BUSY, 15])
def test_each_effect_is_what_the_sequence_without_the_activity_lacks(store, repo, data, member):
    events, vectors = data
    explanation = explain(store, member, models=["cnn", "short"], nearest=4)
    kept, _ = sequence(events, vectors, member, us(T), window_us=WINDOW_US, length=LENGTH)
    assert activities_of(explanation) == kept
    acted_on = {item for item, _, _ in kept}
    for model, output in (("cnn", "activity_embedding"), ("short", "first_four")):
        got = output_of(explanation, model, output)
        whole = embed(repo, model, kept, vectors, us(T))[output]
        np.testing.assert_allclose(got.vector, whole, atol=1e-5)
        scores = cosines(whole, vectors, acted_on, us(T)) if model == "cnn" else {}
        assert [near.item for near in got.nearest] == list(scores)[:4]
        for i in range(len(kept)):
            left = embed(repo, model, kept[:i] + kept[i + 1 :], vectors, us(T))[output]
            np.testing.assert_allclose(got.effects[i], whole - left, atol=1e-5)
            assert got.moved[i] == pytest.approx(
                np.linalg.norm(whole - left) / np.linalg.norm(whole), abs=1e-4
            )
            without = cosines(left, vectors, acted_on, us(T)) if model == "cnn" else {}
            assert [near.item for near in got.nearest_without[i]] == list(without)[:4]
            for near, effect in zip(got.nearest, got.score_effects[i], strict=True):
                assert effect == pytest.approx(
                    scores[near.item] - without.get(near.item, 0), abs=1e-4
                )


def test_of_a_decay_the_effects_are_those_of_the_formula(store, data):
    _, vectors = data
    one_by_one = explain(store, BUSY, models=["geometric_decay"])
    parts = explain(store, BUSY, models=["geometric_decay"], method="integrated_gradients")
    activities = activities_of(one_by_one)
    assert activities_of(parts) == activities
    for action in ("APPLY", "SAVE", "DISMISS"):
        output = f"{action.lower()}_embedding"
        chosen = [i for i, (_, did, _) in enumerate(activities) if did == action]
        given = [vector_as_of(vectors, activities[i][0], us(T)) for i in chosen]
        n, r = len(chosen), 0.8
        assert n > 1
        whole = np.array(decayed_of(given, 64, r))
        for i in range(len(activities)):
            left, part = whole, np.zeros(64)
            if i in chosen:
                k = chosen.index(i)
                left = np.array(decayed_of(given[:k] + given[k + 1 :], 64, r))
                part = (1 - r) / (1 - r**n) * r ** (n - 1 - k) * given[k]
            got = output_of(one_by_one, "geometric_decay", output)
            np.testing.assert_allclose(got.effects[i], whole - left, atol=1e-5)
            got = output_of(parts, "geometric_decay", output)
            np.testing.assert_allclose(got.effects[i], part, atol=1e-6)


def test_what_is_explained_is_what_is_served(store, data):
    recent = [(1, "APPLY", at(3.99)), (77_777, "SAVE", at(3.98)), (2, "SAVE", at(5))]
    features = ["job_activity_embedding_cnn{}:activity_embedding"]

    def served(rows, suffix=""):
        names = [name.format(suffix) for name in features]
        return store.get_online_features(names, rows).to_dict()["activity_embedding"][0]

    published = served([{"member_id": BUSY}])
    for explanation, origin in (
        (explain(store, BUSY, models=["cnn"]), "the online store"),
        (explain(store, BUSY, models=["cnn"], as_of=T), "the source of events"),
        (explain(store, BUSY, models=["cnn"], recent=[], as_of=T), "a request"),
    ):
        np.testing.assert_allclose(explanation.outputs[0].vector, published, atol=1e-5)
        assert explanation.as_of == T and explanation.origin == origin
        assert not any(activity.new for activity in explanation.activities)
    asked = explain(store, BUSY, models=["cnn"], recent=recent, as_of=T)
    rows = entity_rows([BUSY], {BUSY: recent}, request_timestamp=T)
    np.testing.assert_allclose(asked.outputs[0].vector, served(rows, "_realtime"), atol=1e-6)
    assert [a.item for a in asked.activities if a.new] == [1]
    assert asked.left_out == {"job without a vector": 1, "not before the time": 1}
    assert "a request: 32 activities, 1 new; 1 left out: job without a vector" in str(asked)


def test_a_value_of_the_past_counts_what_it_could_not_know(store, data):
    events, vectors = data
    for member in (BUSY, 20, 33):
        as_of = at(-3)
        kept, unknown = sequence(
            events, vectors, member, us(as_of), window_us=WINDOW_US, length=LENGTH
        )
        got = explain(store, member, as_of=as_of)
        assert activities_of(got) == kept
        assert got.left_out == ({"job without a vector": unknown} if unknown else {})
        assert [(o.model, o.output) for o in got.outputs] == OUTPUTS


def test_whoever_did_nothing_lately_has_zero_vectors(store):
    for got in (explain(store, SILENT), explain(store, SILENT, as_of=T)):
        assert got.activities == () and len(got.outputs) == len(OUTPUTS)
        assert not any(o.vector.any() or len(o.effects) or o.nearest for o in got.outputs)
    gradients = explain(store, SILENT, as_of=T, method="integrated_gradients", models=["cnn"])
    assert gradients.outputs[0].effects.shape == (0, 64)


def test_somebody_unknown_is_refused_unless_a_request_says_what_they_did(store):
    with pytest.raises(InvalidInput, match=r"member_id: expected a member in the online store"):
        explain(store, UNKNOWN)
    with pytest.raises(InvalidInput, match=r"in the source of job_activity. Received: 999"):
        explain(store, UNKNOWN, as_of=T)
    got = explain(store, UNKNOWN, recent=[(3, "SAVE", at(3))], as_of=T, models=["geometric_decay"])
    saved = output_of(got, "geometric_decay", "save_embedding")
    assert saved.moved == pytest.approx([1.0])
    assert saved.nearest and saved.nearest_without == ((),)
    assert not output_of(got, "geometric_decay", "apply_embedding").nearest


@pytest.mark.parametrize(
    "arguments, kind, message",
    [
        ({"models": ["nope"]}, InvalidInput, "registered models of job: cnn, geom.*: 'nope'"),
        ({"method": "guess"}, InvalidInput, "one of leave_one_out, integrated_gradients"),
        ({"nearest": -1}, InvalidInput, "should not be negative"),
        ({"as_of": "noon"}, InvalidInput, "`as_of` should be a datetime"),
        ({"item": "film"}, InvalidInput, "course, job. Received: 'film'"),
        ({"recent": [("a", "SAVE", T)]}, InvalidRequest, "ids of type int64. Received: 'a'"),
    ],
)
def test_what_cannot_be_explained_is_one_error(store, arguments, kind, message):
    with pytest.raises(kind, match=message):
        explain(store, BUSY, **arguments)


def test_another_domain_has_its_own_names(store):
    got = explain(store, 3, item="course")
    assert [(a.item, a.name, a.action) for a in got.activities] == [
        ("c1", "c1", "ENROL"),
        ("c2", "c2", "LEAVE"),
    ]
    enrolled = output_of(got, "unweighted_average", "enrol_embedding")
    assert enrolled.moved == pytest.approx([1.0, 0.0])
    assert [near.item for near in enrolled.nearest] == ["c3", "c4", "c5"]
    assert "nearest courses, cosine" in str(got)


def command(repo, *arguments):
    arguments = ["-C", repo.path, "explain", *arguments, "--item", "job"]
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    return result.exit_code, result.output


def test_the_command_prints_text_and_json_and_writes_a_page(repo, store, tmp_path):
    recent = ["--recent", 3, "SAVE", (T - timedelta(seconds=9)).isoformat()]
    asked = [BUSY, "--model", "geometric_decay", "--as-of", T.isoformat(), *recent]
    code, text = command(repo, *asked, "--nearest", 3)
    assert code == 0, text
    assert f"member_id {BUSY} as of 2024-03-05 00:00 UTC, from a request: 32 activities" in text
    assert "geometric_decay version 1, save_embedding" in text
    assert TITLE.format(3) + "  *" in text
    page = tmp_path / "page.html"
    code, output = command(repo, *asked, "--json", "--html", page)
    assert code == 0, output
    told = json.loads(output)
    assert [o["output"] for o in told["outputs"]] == [o for m, o in OUTPUTS[1:4]]
    assert {len(o["activities"]) for o in told["outputs"]} == {len(told["activities"])} == {32}
    assert told["activities"][-1]["name"] == TITLE.format(3) and told["activities"][-1]["new"]
    # What has no title is called by its id.
    assert {a["name"] for a in told["activities"] if a["item"] == 7} <= {"7"}
    html = page.read_text()
    assert "Director &amp; &lt;i&gt;Head&lt;/i&gt; of 3" in html and "<i>" not in html
    assert "http" not in html and "<script" not in html


def test_the_command_says_in_one_line_what_is_wrong(repo):
    for arguments, said in (
        ([UNKNOWN], "Received: 999, of whom it has nothing"),
        (["x"], "member_id: expected ids that are int64. Received: 'x'"),
        ([BUSY, "--recent", "x", "SAVE", T], "job_id: expected ids that are int64. Received: 'x'"),
        ([BUSY, "--recent", 3, "SAVE", "noon"], "ISO 8601 string. Received: 'noon'"),
    ):
        code, output = command(repo, *arguments)
        assert code == 1 and output.startswith("Error: ") and said in output
        assert len(output.splitlines()) == 1
