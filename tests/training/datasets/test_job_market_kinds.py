"""What members of the simulated job market do beside acting on jobs, and what it came from."""

import hashlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from activity_embeddings.training.datasets.job_market import JobMarket
from activity_embeddings.training.datasets.job_market.__main__ import main
from activity_embeddings.training.datasets.job_market.kinds import KIND_ACTIONS
from activity_embeddings.training.datasets.job_market.market import FIRST_PASSIVE_ID
from activity_embeddings.training.datasets.job_market.members import BLOCK

pytestmark = pytest.mark.slow

SMALL = {"jobs": 300, "days": 20, "sessions": 0.3, "posts": 200}
KINDS = tuple(KIND_ACTIONS)
START = pd.Timestamp("2024-01-01", tz="UTC")
DAYS = 40


class Market:
    """A block of active members and one of passive ones, as data frames."""

    def __init__(self):
        self.market = JobMarket(members=BLOCK, passive=BLOCK, days=DAYS, jobs=500)
        self.block = self.market.simulate(0)
        self.jobs, self.members = (table.to_pandas() for table in self.block.jobs())
        self.truth = {k: self.block.of_kind(k)[1].to_pandas() for k in KINDS}
        self.items = {k: self.market.kinds.items(k).to_pandas() for k in KINDS}
        known = self.market.occupations
        self.vector_of = dict(zip(known.titles, known.vectors, strict=True))

    def vectors(self, events: pd.DataFrame) -> np.ndarray:
        """The true vectors of the occupations that events of a kind are about."""
        return np.stack([self.vector_of[title] for title in events["occupation"]])

    def wanted(self, events: pd.DataFrame, time: str = "event_timestamp") -> np.ndarray:
        """The direction of each event's member at its time, as unit vectors."""
        asked = events.reset_index().sort_values(time)
        rows = pd.merge_asof(
            asked,
            self.members.sort_values("event_timestamp").rename(columns={"event_timestamp": "from"}),
            left_on=time,
            right_on="from",
            by="member_id",
        ).sort_values("index")
        preference = np.stack(rows["preference"])[:, :-1]
        return preference / np.linalg.norm(preference, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def simulated() -> Market:
    return Market()


def digest(table: pa.Table) -> str:
    return hashlib.sha256(table.to_pandas().to_csv(index=False).encode()).hexdigest()[:16]


def test_the_market_without_other_kinds_is_the_one_that_figures_were_published_of(tmp_path):
    market = JobMarket(members=500, seed=3, **SMALL)
    assert digest(market.block(0)[0]) == "cf8a1886d0392a10"
    assert digest(market.postings()) == "c6a7fbc7d6fe2df3"
    market.write(tmp_path / "jobs")
    more = JobMarket(members=500, seed=3, passive=500, searched=0.9, reads=9.0, **SMALL)
    counts = more.write(tmp_path / "kinds", kinds=True)
    for path in (tmp_path / "jobs").rglob("*.parquet"):
        name = path.relative_to(tmp_path / "jobs")
        if name.name != "members.parquet":  # the passive ones come after the others
            assert path.read_bytes() == (tmp_path / "kinds" / name).read_bytes()
    for kind in KINDS:
        assert (
            pq.read_table(tmp_path / "kinds" / f"{kind}_events").num_rows
            == (counts[f"{kind}_events"])
        )


def test_members_do_the_same_however_many_there_are():
    many = JobMarket(members=BLOCK + 7, passive=BLOCK + 5, **SMALL)
    few = JobMarket(members=1, passive=123, **SMALL)
    few, many = (market.simulate(0, passive=True) for market in (few, many))
    for kind in KINDS:
        for one, other in zip(few.of_kind(kind), many.of_kind(kind), strict=True):
            theirs = pa.array(other["member_id"].to_numpy() < FIRST_PASSIVE_ID + 123)
            assert one.num_rows
            assert one.equals(other.filter(theirs))
    assert few.jobs()[0]["member_id"].to_numpy().min() >= FIRST_PASSIVE_ID


def test_events_are_on_known_items_within_the_market_in_order(simulated):
    postings = simulated.market.postings().column_names
    for kind, truth in simulated.truth.items():
        items, item_id = simulated.items[kind], f"{kind}_id"
        assert [item_id, *postings] == list(items.columns)
        assert (items["job_id"] == -1).all()
        assert items[item_id].is_unique and items["title"].str.len().min() > 0
        known = items.set_index(item_id)["event_timestamp"]
        time = truth["event_timestamp"]
        assert time.is_monotonic_increasing
        assert (known.loc[truth[item_id]].to_numpy() <= time.to_numpy()).all()
        assert time.min() >= START and time.max() < START + pd.Timedelta(days=DAYS)
        assert set(truth["action"]) == set(KIND_ACTIONS[kind])
        assert (truth["since"] <= time).all()
        followed = truth["before"].notna()
        assert (time < truth["before"])[followed].all()


def test_a_search_comes_before_the_actions_of_its_session_and_says_what_they_are_of(simulated):
    searches = simulated.truth["search"]
    begun = searches[["member_id", "before"]].drop_duplicates()
    assert 0.45 < len(begun) / len(simulated.block.sessions.member) < 0.55
    # The jobs acted on within half an hour of the session's start.
    jobs = simulated.jobs[simulated.jobs["action"] != "DISMISS"]
    pairs = searches.merge(jobs, on="member_id", suffixes=("", "_of_job"))
    later = pairs["event_timestamp_of_job"] - pairs["before"]
    pairs = pairs[(later >= pd.Timedelta(0)) & (later < pd.Timedelta(minutes=30))]
    assert (pairs["event_timestamp"] < pairs["event_timestamp_of_job"]).all()
    vectors = simulated.market.all_jobs.vectors
    about = simulated.vectors(pairs)
    likeness = (about * vectors[pairs["job_id"] - 1]).sum(axis=1)
    by_chance = (about * vectors[np.roll(pairs["job_id"], 1000) - 1]).sum(axis=1)
    for cause in ("direction", "stray"):
        of_cause = (pairs["cause"] == cause).to_numpy()
        assert of_cause.sum() > 300
        assert np.median(likeness[of_cause]) > 0.5 > 0.2 > np.median(by_chance[of_cause])


def test_some_changes_of_direction_are_announced_before_they_show_in_actions(simulated):
    status = simulated.truth["status"]
    announced = status[status["cause"] == "change"].reset_index(drop=True)
    directions = simulated.block.directions
    changes = (directions.changed == directions.since).sum()
    assert 0.36 < len(announced) / changes < 0.42  # a few would fall after the end
    pairs = announced.merge(simulated.jobs, on="member_id", suffixes=("", "_of_job"))
    acted = pairs["event_timestamp_of_job"]
    came = pairs["event_timestamp"] - pairs["since"] < pd.Timedelta(days=7)
    assert came.all() and len(acted) > 1000
    # An action of a session that began before the change may come within the minutes after it.
    after = acted > pairs["since"] + pd.Timedelta(hours=1)
    assert not (after & (acted < pairs["event_timestamp"])).any()
    # What is announced is where the member goes, here of changes that are at once.
    now = simulated.wanted(announced)
    likeness = (now * simulated.vectors(announced)).sum(axis=1)
    assert 0.7 < (likeness > 0.9).mean() < 0.85
    others = status[status["cause"] == "direction"].reset_index(drop=True)
    assert np.median((simulated.wanted(others) * simulated.vectors(others)).sum(axis=1)) > 0.9


def test_posts_read_are_around_the_direction_and_noisier_than_searches(simulated):
    def likeness(kind):
        events = simulated.truth[kind]
        rows = events[events["cause"] == "direction"].sample(3000, random_state=0)
        rows = rows.reset_index(drop=True)
        return (simulated.wanted(rows) * simulated.vectors(rows)).sum(axis=1)

    read, by_chance = likeness("post"), simulated.market.occupations.vectors
    posts = simulated.market.kinds.posts.occupation
    any_post = by_chance[np.random.default_rng(0).choice(posts, 3000)]
    some = simulated.truth["post"].sample(3000, random_state=0).reset_index(drop=True)
    assert read.mean() > (simulated.wanted(some) * any_post).sum(axis=1).mean() + 0.1
    assert read.mean() < likeness("search").mean() - 0.3


def test_passive_members_come_to_the_jobs_once_and_do_the_rest_as_others(simulated):
    passive = simulated.market.simulate(0, passive=True)
    jobs = passive.jobs()[0].to_pandas()
    visits = jobs.groupby("member_id")["event_timestamp"]
    assert (visits.max() - visits.min()).max() < pd.Timedelta(hours=1)
    # Some act on nothing in it.
    assert 0.5 < len(visits) / BLOCK < 0.95
    searches = passive.of_kind("search")[1].to_pandas()
    assert searches.groupby("member_id")["before"].nunique().max() == 1
    for kind in ("status", "post"):
        theirs = passive.of_kind(kind)[0]
        assert 0.9 < len(theirs) / len(simulated.truth[kind]) < 1.1


def test_shares_are_those_of_the_settings():
    none = {"searched": 0.0, "announced": 0.0, "announcements": 0.0, "reads": 0.0}
    silent = JobMarket(members=50, **SMALL | none).simulate(0)
    assert [len(silent.of_kind(kind)[0]) for kind in KINDS] == [0, 0, 0]
    every = {"searched": 1.0, "announced": 1.0, "announcements": 0.0}
    eager = JobMarket(members=BLOCK, **SMALL | every).simulate(0)
    begun = eager.of_kind("search")[1].to_pandas().groupby(["member_id", "before"]).size()
    assert len(begun) == len(eager.sessions.member)
    assert begun.max() == 4 and 1.4 < begun.mean() < 1.5  # geometric of mean 1.5, up to 4
    status = eager.of_kind("status")[1].to_pandas()
    # What changes in the last week may be announced after the end.
    end = START + pd.Timedelta(days=SMALL["days"] - 7)
    since = eager.directions.since[eager.directions.changed == eager.directions.since]
    since = START + pd.to_timedelta(np.sort(since), unit="us")
    assert (status["since"].sort_values()[lambda s: s < end].to_numpy() == since[since < end]).all()


def test_the_command_writes_other_kinds_where_it_is_asked_to(tmp_path, capsys):
    command = ["--members", "20", "--days", "20", "--jobs", "300", "--passive", "30"]
    main(["--out", str(tmp_path / "jobs"), *command])
    assert not list((tmp_path / "jobs").glob("search*"))
    main(["--out", str(tmp_path / "kinds"), *command, "--kinds"])
    printed = capsys.readouterr().out
    for kind in KINDS:
        events = pq.read_table(tmp_path / "kinds" / f"{kind}_events")
        assert f"{kind}_events: {len(events):,}\n" in printed
        truth = pq.read_table(tmp_path / "kinds" / f"truth/{kind}_events.parquet")
        assert truth.select(events.column_names).equals(events)
    assert "`truth/<kind>_events.parquet`" in (tmp_path / "kinds" / "README.md").read_text()
