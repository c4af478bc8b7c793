"""What `measure` prints equals a slow recomputation from the raw events."""

import math
import re
import statistics
from collections import Counter
from functools import partial
from itertools import pairwise
from operator import mul

import pytest
from click.testing import CliRunner

from activity_embeddings.training.commands import cli
from activity_embeddings.training.evaluation.mixing import Mix, best_mix
from activity_embeddings.training.models import UnweightedAverage
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.feast_repo import DIMENSION, at, small_data, us
from support.reference import US_PER_DAY, decayed_of, mean_of, vector_as_of
from support.training_reference import gain, held_out, mean_of_members, ranking_queries

pytestmark = pytest.mark.slow

PERIODS = ["--choose-from", "2024-03-11", "--test-from", "2024-03-21", "--until", "2024-04-10"]
CHOOSE, TEST = (at(10), at(20)), (at(20), at(40))
NEVER_BEFORE = us(at(-1000))
OUTPUTS = ("APPLY", "DISMISS", "SAVE")


def measure(repo, *more):
    return CliRunner().invoke(cli, ["-C", str(repo.path), "measure", *PERIODS, *map(str, more)])


def queries_of(events, vectors, period):
    """Return the queries of a period, with the newest vector of each item that counts."""
    start, end = map(us, period)
    facts = {"window_us": 28 * US_PER_DAY, "length": 32, "start": start, "end": end}
    queries = ranking_queries(events, vectors, **facts)
    for query in queries:
        items = {query["wanted"], *query["candidates"], *(item for item, _, _ in query["before"])}
        query["vectors"] = {item: vector_as_of(vectors, item, query["time"]) for item in items}
    return queries


def by_averages(average):
    """Return what scores an item by its vector and the average of each action, one or another."""

    def scores(query, item):
        known = query.setdefault(average, {})  # each is asked for with many weights
        if item not in known:
            known[item] = [dot(vector, query["vectors"][item]) for vector in averages(query)]
        return known[item]

    def averages(query):
        for action in OUTPUTS:
            own = [query["vectors"][j] for j, done, _ in query["before"] if done == action]
            yield average(own, DIMENSION)

    return scores


def dot(one, other):
    return math.fsum(map(mul, one, other))


def by_counts(events, vectors, until, key_of):
    """Return what scores an item by its share in what came after the last activity's key."""
    always = [(item, NEVER_BEFORE, vector) for item, _, vector in vectors]
    facts = {"window_us": 28 * US_PER_DAY, "length": 32, "minimum": 1, "prefixes": True}
    counted = Counter(
        (key_of(before[-1]), event["job_id"])
        for event, before in held_out(events, always, start=NEVER_BEFORE, end=us(until), **facts)
    )
    totals = Counter()
    for (key, _), count in counted.items():
        totals[key] += count

    def share(query, item):
        key = key_of(query["before"][-1])
        return [counted[key, item] / max(totals[key], 1)]

    return share


def figures(queries, scores_of, mix):
    """Return the NDCG@10 of each member, by weighed scores and popularity mixed."""
    share, weights = mix
    scored = [
        {
            item: (
                dot(weights, scores_of(query, item)),
                math.log1p(query["popularity"][item]),
            )
            for item in (query["wanted"], *query["candidates"])
        }
        for query in queries
    ]
    rivals = [
        scores[item]
        for query, scores in zip(queries, scored, strict=True)
        for item in query["candidates"]
    ]
    spreads = [max(statistics.pstdev(values), 1e-9) for values in zip(*rivals, strict=True)]

    def mixed(scores):
        own, popular = (s / spread for s, spread in zip(scores, spreads, strict=True))
        return share * own + (1 - share) * popular

    gains = [
        gain(mixed(scores[query["wanted"]]), [mixed(scores[j]) for j in query["candidates"]])
        for query, scores in zip(queries, scored, strict=True)
    ]
    return mean_of_members(queries, gains)


def mean_figure(queries, scores_of, mix):
    return round(statistics.mean(figures(queries, scores_of, mix)), 9)


def package(model, folder, **training):
    """Package averages that say of themselves how they were trained; return their `--also`."""
    spec, vector_spec = ActivitySpec(), ItemVectorSpec("content_and_behaviour", "1", DIMENSION)
    package_model(
        model.build(spec, vector_spec),
        folder,
        name=folder.name,
        version="1",
        spec=spec,
        vector_spec=vector_spec,
        training=training,
    )
    return f"{folder.name}={folder}"


def test_it_prints_what_a_recomputation_from_the_raw_events_gives(repo, tmp_path):
    repo.run("apply")
    # The models of the repo do not say how they were trained, so they count as learned.
    done = measure(repo, "--also", package(UnweightedAverage(), tmp_path / "mean", epochs=0))
    assert done.exit_code == 0, done.output + repr(done.exception)
    rows, vectors = small_data()
    events = [
        {"member_id": member, "job_id": item, "action": action, "time": us(time)}
        for member, item, action, time in rows
    ]
    vectors = [(item, us(time), vector.tolist()) for item, time, vector in vectors]
    chosen_on, asked = (queries_of(events, vectors, period) for period in (CHOOSE, TEST))
    mean = by_averages(mean_of)
    items, items_and_actions = (
        [by_counts(events, vectors, until, key_of) for until in (CHOOSE[0], TEST[0])]
        for key_of in (lambda last: last[0], lambda last: last[:2])
    )
    scores = {
        "mean": (mean, mean),
        "item_counts": items,
        "item_action_counts": items_and_actions,
        "geometric_decay": [by_averages(lambda own, size: decayed_of(own, size, 0.8))] * 2,
        "unweighted_average": (mean, mean),
    }
    expected = {"popularity": statistics.mean(figures(asked, items[0], Mix(0.0, (1.0,))))}
    for name, (early, late) in scores.items():
        wanted = [True] if "counts" in name else [action != "DISMISS" for action in OUTPUTS]
        mix = best_mix(partial(mean_figure, chosen_on, early), wanted)
        expected[name] = mean_figure(asked, late, mix)

    members = len({query["member"] for query in asked})
    assert f"{members} members" in done.output and f"{len(asked)} queries" in done.output
    number = r"([+-]?\d\.\d{4})"
    found = re.findall(
        rf"^  (\w+) +{number}(?:  {number} \[{number}, {number}\])?$", done.output, re.M
    )
    names = [name for name, *_ in found]
    assert names[:4] == ["popularity", "mean", "item_counts", "item_action_counts"]
    assert names[4:] == ["cnn", "geometric_decay", "unweighted_average"]
    printed = {name: float(ndcg) for name, ndcg, *_ in found if name in expected}
    assert printed == pytest.approx(expected, abs=6e-5)
    for (_, before, *_), (_, ndcg, above, low, high) in pairwise(found):
        assert float(above) == pytest.approx(float(ndcg) - float(before), abs=2e-4)
        assert float(low) <= float(above) <= float(high)


def test_several_folders_of_one_model_are_refused(repo, tmp_path):
    repo.run("apply")
    mean = package(UnweightedAverage(), tmp_path / "mean", epochs=0)
    done = measure(repo, "--models", "geometric_decay", "--also", f"{mean},{tmp_path / 'mean'}")
    assert done.exit_code != 0
    assert "model 'mean': expected one SavedModel" in done.output
    assert done.output.strip().endswith("Received: 2")


def test_a_model_that_saw_labels_of_the_test_is_refused(repo, tmp_path):
    repo.run("apply")
    training = {"validation": {"end": "2024-03-22T00:00:00+00:00"}}
    late = package(UnweightedAverage(), tmp_path / "late", **training)
    done = measure(repo, "--models", "geometric_decay", "--also", late)
    assert done.exit_code != 0
    assert "'late'" in done.output and "saw labels until 2024-03-22" in done.output
    assert ", from when on it is tested. Received" in done.output and "ranker" not in done.output
