"""The simulated job market: what it writes, what is planted in it, and that it can be found."""

import os
import subprocess
import sys
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activity_embeddings.training.datasets.base import EVENTS_SCHEMA
from activity_embeddings.training.datasets.job_market import JobMarket
from activity_embeddings.training.datasets.job_market.__main__ import main
from activity_embeddings.training.datasets.job_market.market import (
    TRUE_JOBS_SCHEMA,
    TRUE_MEMBERS_SCHEMA,
)
from activity_embeddings.training.datasets.job_market.members import BLOCK, Directions
from activity_embeddings.training.datasets.job_market.occupations import OCCUPATIONS
from activity_embeddings.training.datasets.sample import JOBS, make_sample_repo
from activity_embeddings.transformations.errors import InvalidInput
from support.reference import US_PER_DAY

pytestmark = pytest.mark.slow

DAYS = 60
START = datetime(2024, 1, 1, tzinfo=UTC)
START_US = int(START.timestamp()) * 1_000_000
SMALL = {"jobs": 300, "days": 20, "sessions": 0.3}


class Simulated:
    """A block of a market, as plain arrays made from its tables."""

    def __init__(self, market: JobMarket):
        self.market = market
        events, members = market.block(0)
        self.events, self.members = events, members
        self.member, self.job = (events[c].to_numpy() for c in ("member_id", "job_id"))
        self.action = events["action"].to_numpy()
        self.time = us(events["event_timestamp"])
        jobs = market.true_jobs()
        self.vector = np.stack(jobs["vector"].to_numpy())
        self.open_from, self.open_until = us(jobs["open_from"]), us(jobs["open_until"])
        self.true_member, self.true_since = (
            members["member_id"].to_numpy(),
            us(members["event_timestamp"]),
        )
        self.preference = np.stack(members["preference"].to_numpy())

    def preference_at(self, member: np.ndarray, time: np.ndarray) -> np.ndarray:
        """The newest row at or before, by a search over member and time together."""
        keys = self.true_member * 10**14 + (self.true_since - START_US)
        wanted = member * 10**14 + (time - START_US)
        return self.preference[np.searchsorted(keys, wanted, side="right") - 1]


def us(column) -> np.ndarray:
    return column.cast(pa.int64()).to_numpy()


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of rows, without the last coordinate."""
    one, other = one[:, :-1], other[:, :-1]
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / lengths


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    return Simulated(JobMarket(members=BLOCK, days=DAYS, jobs=900))


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        JobMarket(members=500, seed=seed, **SMALL).write(tmp_path / name)
    one, same, other = (contents(tmp_path / name) for name in ("one", "same", "other"))
    assert sorted(one) == [
        "README.md",
        "activity_events/part-00000.parquet",
        "job_postings.parquet",
        "truth/items.parquet",
        "truth/members.parquet",
    ]
    assert one == same
    assert all(one[name] != other[name] for name in one)


def test_members_do_not_depend_on_how_many_there_are():
    many = JobMarket(members=2 * BLOCK + 7, **SMALL)
    few = JobMarket(members=123, **SMALL)
    assert (many.blocks, few.blocks) == (3, 1)
    for one, other in zip(few.block(0), many.block(0), strict=True):
        ids = other["member_id"].to_numpy()
        assert one.num_rows
        assert one.equals(other.filter(pa.array(ids <= 123)))
    assert few.postings().equals(many.postings())


def test_blocks_can_be_made_in_any_order_and_differ():
    market = JobMarket(members=2 * BLOCK + 7, **SMALL)
    last = market.block(2)
    first = market.block(0)
    again = JobMarket(members=2 * BLOCK + 7, **SMALL)
    assert [table.equals(same) for table, same in zip(first, again.block(0), strict=True)] == [
        True,
        True,
    ]
    assert last[1].equals(again.block(2)[1])
    assert set(np.unique(last[1]["member_id"])) == set(range(2 * BLOCK + 1, 2 * BLOCK + 8))
    shared = min(len(last[1]), len(first[1]))
    assert not last[1]["preference"][:shared].equals(first[1]["preference"][:shared])


def test_a_block_that_is_not_there_is_refused():
    with pytest.raises(InvalidInput, match="a block is expected from 0 to 0, received 1"):
        JobMarket(members=BLOCK, **SMALL).block(1)


def test_tables_have_the_layout_of_the_feature_repo(simulated, tmp_path):
    assert simulated.events.schema.equals(EVENTS_SCHEMA)
    assert simulated.members.schema.equals(TRUE_MEMBERS_SCHEMA)
    assert simulated.market.true_jobs().schema.equals(TRUE_JOBS_SCHEMA)
    assert simulated.market.postings().column_names == [
        "job_id",
        "title",
        "description",
        "group",
        "event_timestamp",
    ]
    assert (np.diff(simulated.time) >= 0).all()
    assert simulated.time[0] >= START_US and simulated.time[-1] < START_US + DAYS * US_PER_DAY


def test_every_count_that_is_returned_is_that_of_the_files(tmp_path):
    counts = JobMarket(members=BLOCK + 500, **SMALL).write(tmp_path)
    events = pq.read_table(tmp_path / "activity_events").to_pandas()
    assert len(list((tmp_path / "activity_events").iterdir())) == 2
    history = events.groupby("member_id").size()  # 20 days: all of them are recent
    assert counts == {
        "events": len(events),
        "members": events["member_id"].nunique(),
        "jobs": 300,
        "jobs_acted_on": events["job_id"].nunique(),
        **events["action"].value_counts(normalize=True).to_dict(),
        "median_history": history.median(),
    }


def test_postings_are_real_occupations_with_a_level_at_most_added(simulated):
    lines = OCCUPATIONS.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 1110
    known = {}
    for line in lines[1:]:
        code, *texts = line.split("\t")
        title, description = (text.strip('"').replace('""', '"') for text in texts)
        known[title] = (code[:2], description)
    assert (OCCUPATIONS.parent / "README.md").read_text(encoding="utf-8").count("CC BY 4.0") == 1
    postings = simulated.market.postings().to_pylist()
    plain = 0
    group_codes = {}
    for posting in postings:
        major, *level = posting["group"]
        title = posting["title"].removesuffix(f", {level[0]}" if level else "")
        code, description = known[title]
        assert posting["description"] == description
        assert group_codes.setdefault(major, code) == code
        plain += not level
    assert 0.45 < plain / len(postings) < 0.65
    assert len(group_codes) > 10


def test_what_is_written_carries_the_notice_of_the_source(tmp_path):
    JobMarket(members=10, **SMALL).write(tmp_path)
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    for words in ("Simulated", "O*NET", "USDOL/ETA", "CC BY 4.0", "members = 10"):
        assert words in readme


def test_events_are_never_written_beside_old_ones(tmp_path):
    JobMarket(members=10, **SMALL).write(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InvalidInput, match=r"Received: activity_events, job_postings.parquet, "):
        JobMarket(members=20, **SMALL).write(tmp_path)
    assert contents(tmp_path) == before


def test_files_of_others_are_not_replaced(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(InvalidInput, match=r"Received: README.md$"):
        JobMarket(members=10, **SMALL).write(tmp_path)
    with pytest.raises(InvalidInput, match=r"Received: a file$"):
        JobMarket(members=10, **SMALL).write(tmp_path / "README.md")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("README.md", "mine")]


def test_the_demo_makes_no_market_where_something_else_is(tmp_path):
    definitions, other = tmp_path / "repo", tmp_path / "other"
    (definitions / "data").mkdir(parents=True)
    (definitions / "entities.py").write_text("# mine")
    other.mkdir()
    (other / "precious.txt").write_text("mine")
    for folder in (definitions, other, other / "precious.txt"):
        with pytest.raises(
            InvalidInput, match="expected a new folder, or one that an earlier demo made"
        ):
            make_sample_repo(folder, JOBS)
    assert (definitions / "entities.py").exists() and (other / "precious.txt").exists()


@pytest.mark.process
@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_market_is_the_same_whatever_the_number_of_threads(threads, tmp_path):
    JobMarket(members=10, **SMALL).write(tmp_path / "here")
    command = [
        sys.executable,
        "-m",
        "activity_embeddings.training.datasets.job_market",
        "--out",
        str(tmp_path / "there"),
    ]
    command += ["--members", "10"]
    for name, value in SMALL.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_jobs_acted_on_are_posted_before_and_open(simulated):
    posted = us(simulated.market.postings()["event_timestamp"])
    acted = simulated.job - 1
    assert (np.diff(posted) >= 0).all()
    assert (posted < simulated.open_from).all()
    assert (simulated.open_from - posted <= US_PER_DAY).all()
    assert (simulated.time >= simulated.open_from[acted]).all()
    assert (simulated.time < simulated.open_until[acted]).all()
    # All are open at some moment of the market, for weeks, as many at its start as at its end.
    assert (simulated.open_until > START_US).all()
    open_days = (simulated.open_until - simulated.open_from) / US_PER_DAY
    assert 28 < np.median(open_days) < 45
    open_on = [
        ((simulated.open_from <= at) & (at < simulated.open_until)).sum()
        for at in START_US + np.array([1, 30, 59]) * US_PER_DAY
    ]
    assert max(open_on) < 1.25 * min(open_on)


def test_nobody_acts_twice_on_one_job(simulated):
    pairs = np.stack([simulated.member, simulated.job])
    assert len(np.unique(pairs, axis=1).T) == len(simulated.member)


def test_three_in_a_hundred_actions_are_dismissals(simulated):
    assert 0.025 < (simulated.action == "DISMISS").mean() < 0.035
    assert 0.3 < (simulated.action == "SAVE").mean() < 0.45
    assert not (Simulated(JobMarket(members=BLOCK, dismiss=0.0, **SMALL)).action == "DISMISS").any()


def test_histories_are_short_with_a_heavy_tail(simulated):
    lately = simulated.time >= START_US + (DAYS - 28) * US_PER_DAY
    _, lengths = np.unique(simulated.member[lately], return_counts=True)
    assert 2 <= np.median(lengths) <= 4
    assert np.quantile(lengths, 0.99) > 8 * np.median(lengths)
    assert 0.3 < len(lengths) / BLOCK < 0.9


def test_actions_come_in_sessions_within_minutes(simulated):
    order = np.lexsort((simulated.time, simulated.member))
    gap = np.diff(simulated.time[order])[np.diff(simulated.member[order]) == 0]
    assert 0.3 < (gap < 10 * 60 * 1_000_000).mean() < 0.8
    days = (simulated.time - START_US) // US_PER_DAY
    a_day = np.bincount(days, minlength=DAYS)
    weekend = np.arange(DAYS) % 7 >= 5  # The first day is a Monday.
    assert 0.5 < a_day[weekend].mean() / a_day[~weekend].mean() < 0.7


def test_exposure_favours_popular_jobs_and_fades_with_age(simulated):
    jobs = simulated.market.all_jobs
    shown, exposure = jobs.shown_on(30)
    np.testing.assert_allclose(exposure.sum(), 1)
    raw = jobs.exposure[shown] * np.exp(-(30 - jobs.first_day[shown]) / 21.0)
    np.testing.assert_allclose(exposure, raw / raw.sum())
    # A day's actions go with the exposure of that day.
    day = (simulated.time - START_US) // US_PER_DAY
    actions = np.bincount(simulated.job[day == 30] - 1, minlength=len(jobs.exposure))[shown]
    top = np.argsort(-exposure)[: len(shown) // 5]
    assert actions[top].sum() > 0.35 * actions.sum()
    blind = Simulated(JobMarket(members=BLOCK, focus=0.0, reluctance=0.0, **SMALL))
    day = (blind.time - START_US) // US_PER_DAY
    shown, exposure = blind.market.all_jobs.shown_on(10)
    actions = np.bincount(blind.job[day == 10] - 1, minlength=300)[shown]
    assert np.corrcoef(actions, exposure)[0, 1] > 0.6


def test_positive_actions_are_of_high_utility_and_dismissals_of_low(simulated):
    preference = simulated.preference_at(simulated.member, simulated.time)
    utility = (preference * simulated.vector[simulated.job - 1]).sum(axis=1)
    any_job = simulated.vector[np.random.default_rng(0).integers(0, 900, len(preference))]
    any_utility = (preference * any_job).sum(axis=1)
    dismissed = simulated.action == "DISMISS"
    assert np.median(utility[~dismissed]) > np.quantile(any_utility, 0.9)
    assert np.median(utility[dismissed]) < np.median(utility[~dismissed]) - 5
    np.testing.assert_array_equal(simulated.preference[:, -1], 1.0)
    attractiveness = simulated.vector[:, -1]
    np.testing.assert_array_equal(attractiveness, simulated.market.all_jobs.attractiveness)
    assert abs(attractiveness.std() - 0.5) < 0.05
    lengths = np.linalg.norm(simulated.vector[:, :-1], axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


def first_sessions_of_two_jobs(**settings) -> tuple[np.ndarray, np.ndarray, JobMarket]:
    """First session of each member in a market of two jobs, both shown for sure: member and job."""
    shared = {"members": BLOCK, "jobs": 2, "days": 4, "sessions": 4.0, "reluctance": -100.0}
    market = JobMarket(**shared | {"focus": 0.0, "sessions_spread": 0.0} | settings)
    actions = market.simulate(0).actions
    both = [day for day in range(4) if len(market.all_jobs.shown_on(day)[0]) == 2]
    day = actions.time // US_PER_DAY
    _, first = np.unique(actions.member, return_index=True)
    started = np.zeros(BLOCK, np.int64)
    started[actions.member[first]] = actions.time[first]
    # Of one session are those within its longest duration.
    own = actions.time - started[actions.member] < US_PER_DAY // 24
    rows = own & np.isin(day, both)
    assert rows.sum() > 1000
    return actions.member[rows], actions.job[rows], market


def test_a_choice_is_a_logit_of_utility_however_often_a_job_is_shown():
    settings = {"actions": 1.0, "browsed": 400, "recommended": 1, "exposure_spread": 1.5}
    member, job, market = first_sessions_of_two_jobs(attractiveness=1.0, dismiss=0.0, **settings)
    weight = np.exp(market.all_jobs.attractiveness)
    exposure = market.all_jobs.shown_on(1)[1]
    _, first = np.unique(member, return_index=True)
    expected = weight[0] / weight.sum()
    assert abs(expected - exposure[0]) > 0.1
    assert abs((job[first] == 0).mean() - expected) < 0.03


def test_a_session_goes_on_to_all_that_is_shown_if_it_likes_to():
    settings = {"actions": 8.0, "browsed": 0, "recommended": 200, "recommender_choice": 1}
    member, _, _ = first_sessions_of_two_jobs(attractiveness=0.0, dismiss=0.5, **settings)
    _, count = np.unique(member, return_counts=True)
    # One in eight sessions wants a single action.
    assert abs((count == 2).mean() - 7 / 8) < 0.03


def test_what_is_dismissed_was_recommended():
    settings = {"changing": 0.0, "stray": 0.0, "dismiss": 0.3, "recommender_choice": 50}
    simulated = Simulated(JobMarket(members=BLOCK, browsed=50, **SMALL | settings))
    rows = simulated.action == "DISMISS"
    preference = simulated.preference_at(simulated.member[rows], simulated.time[rows])
    dismissed = cosine(preference, simulated.vector[simulated.job[rows] - 1])
    random = np.random.default_rng(0).integers(0, len(simulated.vector), rows.sum())
    assert np.median(dismissed) > np.quantile(cosine(preference, simulated.vector[random]), 0.75)


def ndcg(simulated: Simulated, score_of) -> float:
    """Mean NDCG@10 of positive actions among the jobs acted on that day, by a slow loop."""
    day = (simulated.time - START_US) // US_PER_DAY
    positive = simulated.action != "DISMISS"
    gains = []
    for today in range(14, DAYS, 15):
        candidates = np.unique(simulated.job[day == today])
        week = (day < today) & (day >= today - 7) & positive
        counts = np.bincount(simulated.job[week], minlength=901)[candidates]
        for row in np.flatnonzero((day == today) & positive)[:400]:
            scores = score_of(row, candidates - 1, np.log1p(counts))
            rank = (scores > scores[candidates == simulated.job[row]]).sum()
            gains.append(1 / np.log2(rank + 2) if rank < 10 else 0.0)
    assert len(gains) > 1000
    return float(np.mean(gains))


def test_an_oracle_beats_popularity_by_a_wide_margin(simulated):
    preference = simulated.preference_at(simulated.member, simulated.time)

    def truth(row, jobs, popularity):
        return simulated.vector[jobs] @ preference[row] + popularity

    popular = ndcg(simulated, lambda row, jobs, popularity: popularity)
    oracle = ndcg(simulated, truth)
    assert 0.02 < popular < 0.12
    assert oracle > 5 * popular
    # Yesterday's preferences of someone else are worth nothing.
    wrong = np.roll(preference, 1, axis=0)
    assert ndcg(simulated, lambda row, jobs, pop: simulated.vector[jobs] @ wrong[row] + pop) < (
        2 * popular
    )


def test_members_that_changed_direction_act_near_the_new_one(simulated):
    since, member = simulated.true_since, simulated.true_member
    later = np.flatnonzero(member[1:] == member[:-1]) + 1
    # At once, and to something else altogether.
    far = cosine(simulated.preference[later], simulated.preference[later - 1]) < 0.2
    turns = later[far]
    assert len(turns) > 500
    turn_of = {int(member[row]): row for row in turns}  # the last of each member
    toward_new, toward_old = {True: [], False: []}, {True: [], False: []}
    for person, job, time, action in zip(
        simulated.member.tolist(), simulated.job, simulated.time, simulated.action, strict=True
    ):
        row = turn_of.get(person)
        if row is None or action == "DISMISS" or abs(time - since[row]) > 7 * US_PER_DAY:
            continue
        after = bool(time >= since[row])
        vector = simulated.vector[job - 1 : job]
        toward_new[after].append(cosine(simulated.preference[row : row + 1], vector)[0])
        toward_old[after].append(cosine(simulated.preference[row - 1 : row], vector)[0])
    assert min(len(toward_new[True]), len(toward_new[False])) > 200
    assert np.median(toward_new[True]) > 0.4 > 0.25 > np.median(toward_old[True])
    assert np.median(toward_old[False]) > 0.4 > 0.25 > np.median(toward_new[False])


def test_dismissals_after_a_change_are_of_where_the_member_came_from():
    settings = {"changing": 1.0, "related": 0.0, "gradual": 0.0, "stray": 0.0, "dismiss": 0.5}
    simulated = Simulated(JobMarket(members=BLOCK, recommender_choice=50, **SMALL | settings))
    week = 7 * US_PER_DAY
    now = simulated.preference_at(simulated.member, simulated.time)
    before = simulated.preference_at(simulated.member, np.maximum(simulated.time - week, START_US))
    rows = (cosine(now, before) < 0.2) & (simulated.action == "DISMISS")
    assert rows.sum() > 500
    vector = simulated.vector[simulated.job[rows] - 1]
    assert np.median(cosine(before[rows], vector)) > np.median(cosine(now[rows], vector)) + 0.2


def test_shares_of_saves_are_those_of_the_settings():
    settings = {"save": 0.2, "save_changed": 0.2, "save_stray": 0.9, "dismiss": 0.0}
    block = JobMarket(members=BLOCK, **SMALL | settings).simulate(0)
    directions, actions = block.directions, block.actions
    assert abs((actions.action[~actions.strayed] == 1).mean() - 0.2) < 0.02
    assert abs((actions.action[actions.strayed] == 1).mean() - 0.9) < 0.03
    settings = {"save": 0.2, "save_changed": 0.8, "stray": 0.0, "dismiss": 0.0, "changing": 1.0}
    block = JobMarket(members=BLOCK, **SMALL | settings).simulate(0)
    directions, actions = block.directions, block.actions
    ago = actions.time - directions.changed[directions.rows(actions.member, actions.time)]
    recent = ago < 28 * US_PER_DAY
    assert recent.any() and not recent.all()
    assert abs((actions.action[recent] == 1).mean() - 0.8) < 0.02
    assert abs((actions.action[~recent] == 1).mean() - 0.2) < 0.02


def test_shares_of_directions_are_those_of_the_settings():
    market = JobMarket(members=BLOCK, days=120, changing=0.35, gradual=0.25, sessions=0.01)
    directions = market.simulate(0).directions
    changes = directions.changed == directions.since
    movers = np.unique(directions.member[changes])
    # A few of those that change keep their first direction for longer than the market lasts.
    assert 0.32 < len(movers) / BLOCK < 0.36
    # A gradual change has more rows, unless the next one, or the end, comes first.
    beginnings = np.append(np.flatnonzero(changes | (directions.since == 0)), len(changes))
    rows = np.diff(beginnings)[changes[beginnings[:-1]]]
    assert 0.17 < (rows > 1).mean() < 0.25
    assert rows.max() == 4
    kept = np.diff(directions.since[changes])[np.diff(directions.member[changes]) == 0]
    assert kept.min() >= 7 * US_PER_DAY


def test_nobody_changes_direction_if_the_share_is_zero():
    members = JobMarket(members=BLOCK, changing=0.0, **SMALL).block(0)[1]
    assert members["member_id"].to_pylist() == list(range(1, BLOCK + 1))


def test_members_search_more_in_the_weeks_after_a_change():
    settings = {"changing": 1.0, "direction_days": 60.0, "reluctance": -100.0, "searching": 4.0}
    block = JobMarket(members=BLOCK, days=60, jobs=300, **settings).simulate(0)
    directions, actions = block.directions, block.actions
    changes = directions.changed == directions.since
    member, number = np.unique(directions.member[changes], return_counts=True)
    at = np.zeros(BLOCK, np.int64)
    at[directions.member[changes]] = directions.since[changes]
    once = np.zeros(BLOCK, bool)
    once[member[number == 1]] = True
    once &= (at > 28 * US_PER_DAY) & (at < 32 * US_PER_DAY)
    ago = (actions.time - at[actions.member])[once[actions.member]] // US_PER_DAY
    after, before = ((ago >= 0) & (ago < 28)).sum(), ((ago < 0) & (ago >= -28)).sum()
    assert before > 200
    assert 3 < after / before < 5


@given(st.data())
def test_the_preference_at_a_moment_is_that_of_the_newest_row_at_or_before_it(data):
    member = np.repeat(np.arange(4), data.draw(st.lists(st.integers(1, 4), min_size=4, max_size=4)))
    first = np.diff(member, prepend=-1) > 0
    since = np.where(first, 0, 0)
    for row in np.flatnonzero(~first):
        since[row] = since[row - 1] + data.draw(st.integers(1, 5))
    wanted = np.zeros((len(member), 2), np.float32)
    directions = Directions(member, since, wanted, member, since)
    asked = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 20)), min_size=1))
    wanted = []
    for who, when in asked:
        rows = [r for r in range(len(member)) if member[r] == who and since[r] <= max(when, 0)]
        wanted.append(rows[-1])
    who, when = np.array(asked).T
    np.testing.assert_array_equal(directions.rows(who, when), wanted)


def test_true_rows_begin_with_the_market_and_are_in_order(simulated):
    member, since = simulated.true_member, simulated.true_since
    first = np.diff(member, prepend=0) > 0
    np.testing.assert_array_equal(member[first], np.arange(1, BLOCK + 1))
    assert (since[first] == START_US).all()
    assert (np.diff(since)[~first[1:]] > 0).all()
    assert since.max() < START_US + DAYS * US_PER_DAY


def test_memory_does_not_grow_with_the_members(tmp_path):
    def peak(blocks: int) -> int:
        market = JobMarket(members=blocks * BLOCK, **SMALL)
        market.block(0)
        tracemalloc.start()
        market.write(tmp_path / str(blocks))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(4) < 1.2 * peak(2)


def test_a_market_may_be_as_small_as_it_gets():
    market = JobMarket(
        members=1, jobs=1, days=1, browsed=0, recommended=1, recommender_choice=1, sessions=100.0
    )
    events, members = market.block(0)
    assert len(members) == 1
    assert len(events) <= 1
    busy = JobMarket(members=BLOCK, jobs=3, days=2, browsed=0, recommended=2, sessions=100.0)
    assert len(busy.block(0)[0]) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": 0}, "`members` is expected to be a whole number from 1 to 1,000,000,000"),
        ({"jobs": 1.5}, r"`jobs` is expected to be a whole number from 1 to 20,000, received 1\.5"),
        ({"days": True}, "`days` is expected to be a whole number from 1 to 3,000, received True"),
        ({"seed": -1}, "`seed` is expected to be a whole number from 0"),
        ({"stray": 1.5}, r"`stray` is expected to be a number from 0 to 1, received 1\.5"),
        ({"focus": float("nan")}, "`focus` is expected to be a number from 0 to 100, received nan"),
        ({"save": "0.3"}, "`save` is expected to be a number from 0 to 1, received '0.3'"),
        ({"start": "2024-01-01"}, "`start` should have a time zone. Received: '2024-01-01'"),
        (
            {"start": datetime(2024, 1, 1)},
            "`start` should have a time zone. .*2024-01-01 00",
        ),
        (
            {"start": datetime(2024, 1, 1, 5, tzinfo=UTC)},
            "a midnight, UTC, received 2024-01-01 05:00:00",
        ),
    ],
)
def test_settings_out_of_range_are_refused_in_one_sentence(settings, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        JobMarket(**settings)
    assert "\n" not in str(caught.value)


def test_the_first_day_may_come_in_any_form_that_says_its_zone():
    days = ["2024-02-05T00:00:00Z", 1_707_091_200, datetime(2024, 2, 5, tzinfo=UTC)]
    assert {JobMarket(start=day).start for day in days} == {datetime(2024, 2, 5, tzinfo=UTC)}


def test_the_command_writes_a_market_and_prints_its_counts(tmp_path, capsys):
    command = ["--out", str(tmp_path / "market"), "--members", "200", "--days", "20"]
    command += ["--jobs", "300", "--start", "2024-02-05"]
    main(command)
    printed = capsys.readouterr().out
    events = pq.read_table(tmp_path / "market" / "activity_events")
    assert f"events: {len(events):,}\n" in printed
    assert "median_history:" in printed
    assert min(events["event_timestamp"].to_pylist()) >= datetime(2024, 2, 5, tzinfo=UTC)
    with pytest.raises(SystemExit) as refused:
        main([*command, "--stray", "2"])
    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert "`stray` is expected to be a number from 0 to 1, received 2.0" in said


def test_the_command_says_what_each_setting_means(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for option in (
        "--jobs INT Postings, some of them posted before `start` and still open then. From 1 to",
        "--stray FLOAT Share of sessions that follow an interest in any occupation, by demand.",
        "--dismiss FLOAT Share of DISMISS among all actions. From 0 to 1, by default 0.03.",
    ):
        assert option in shown
