"""What `measure` prints equals a slow recomputation from the raw events."""

import math
import re
import statistics
from itertools import pairwise

import pytest
from click.testing import CliRunner

from activity_embeddings.training.commands import cli
from activity_embeddings.training.models import UnweightedAverage
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.feast_repo import DIMENSION, at, small_data, us
from support.reference import US_PER_DAY, decayed_of, mean_of, vector_as_of
from support.training_reference import gain, mean_of_members, ranking_queries

pytestmark = pytest.mark.slow

PERIODS = ["--choose-from", "2024-03-11", "--test-from", "2024-03-21", "--until", "2024-04-10"]
CHOOSE, TEST = (at(10), at(20)), (at(20), at(40))
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


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


def embedding(query, average):
    """Return the mean of the averages of both positive actions."""
    parts = []
    for wanted in ("APPLY", "SAVE"):
        own = [query["vectors"][item] for item, action, _ in query["before"] if action == wanted]
        parts.append(average(own, DIMENSION))
    return mean_of(parts, DIMENSION)


def figures(queries, average, share):
    """Return the NDCG@10 of each member, by embedding and popularity mixed."""
    scored = []
    for query in queries:
        own = embedding(query, average)
        scored.append(
            {
                item: (
                    math.fsum(a * b for a, b in zip(own, query["vectors"][item], strict=True)),
                    math.log1p(query["popularity"][item]),
                )
                for item in (query["wanted"], *query["candidates"])
            }
        )
    rivals = [
        scores[item]
        for query, scores in zip(queries, scored, strict=True)
        for item in query["candidates"]
    ]
    spreads = [statistics.pstdev(values) for values in zip(*rivals, strict=True)]

    def mixed(scores):
        own, popular = (s / spread for s, spread in zip(scores, spreads, strict=True))
        return share * own + (1 - share) * popular

    gains = [
        gain(mixed(scores[query["wanted"]]), [mixed(scores[j]) for j in query["candidates"]])
        for query, scores in zip(queries, scored, strict=True)
    ]
    return mean_of_members(queries, gains)


def test_it_prints_what_a_recomputation_from_the_raw_events_gives(repo):
    repo.run("apply")
    done = measure(repo, "--models", "unweighted_average", "--models", "geometric_decay")
    assert done.exit_code == 0, done.output + repr(done.exception)
    rows, vectors = small_data()
    events = [
        {"member_id": member, "job_id": item, "action": action, "time": us(time)}
        for member, item, action, time in rows
    ]
    vectors = [(item, us(time), vector.tolist()) for item, time, vector in vectors]
    chosen_on, asked = (queries_of(events, vectors, period) for period in (CHOOSE, TEST))
    expected = {"popularity": statistics.mean(figures(asked, mean_of, 0.0))}
    averages = {
        "unweighted_average": mean_of,
        "geometric_decay": lambda own, size: decayed_of(own, size, 0.8),
    }
    for name, average in averages.items():
        by_share = [statistics.mean(figures(chosen_on, average, share)) for share in SHARES]
        share = SHARES[by_share.index(max(by_share))]
        expected[name] = statistics.mean(figures(asked, average, share))

    members = len({query["member"] for query in asked})
    assert f"{members} members" in done.output and f"{len(asked)} queries" in done.output
    number = r"([+-]?\d\.\d{4})"
    found = re.findall(
        rf"^  (\w+) +{number}(?:  {number} \[{number}, {number}\])?$", done.output, re.M
    )
    assert [name for name, *_ in found] == list(expected)
    printed = {name: float(ndcg) for name, ndcg, *_ in found}
    assert printed == pytest.approx(expected, abs=6e-5)
    for (_, before, *_), (_, ndcg, above, low, high) in pairwise(found):
        assert float(above) == pytest.approx(float(ndcg) - float(before), abs=2e-4)
        assert float(low) <= float(above) <= float(high)


def test_a_model_that_saw_labels_of_the_test_is_refused(repo, tmp_path):
    repo.run("apply")
    spec, vector_spec = ActivitySpec(), ItemVectorSpec("content_and_behaviour", "1", DIMENSION)
    package_model(
        UnweightedAverage().build(spec, vector_spec),
        tmp_path / "late",
        name="late",
        version="1",
        spec=spec,
        vector_spec=vector_spec,
        training={"validation": {"end": "2024-03-22T00:00:00+00:00"}},
    )
    done = measure(repo, "--models", "geometric_decay", "--also", f"late={tmp_path / 'late'}")
    assert done.exit_code != 0
    assert "'late'" in done.output and "saw labels until 2024-03-22" in done.output
