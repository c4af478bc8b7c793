"""Simulated learners of an online school, with known truth, and the jobs that they look for.

Everything here is made up but names: knowledge areas, occupations and their groups are those of
O*NET. Nothing measured on it says anything of real learners.

The story:

- A *learner* is a member of the simulated job market of this project, and heads for an occupation.
  Some change direction, when the market says so.
- An occupation asks for four knowledge areas, by the group that it belongs to, some more than
  others. Which, is this script's own guess.
- A *course* teaches one area at one of three levels, for people of one group.
- A learner enrols now and then, by a multinomial logit: in areas that the occupation asks for, at
  the level after the one completed, rather for their own group. What still serves when it ends is
  mostly completed; what no longer does, as after a change of direction, is mostly dropped, and a
  dropped area is liked less.

    python learners.py --out data --learners 4000
"""

from __future__ import annotations

import argparse
import csv
import heapq
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings.training.datasets.job_market import JobMarket
from activity_embeddings.training.datasets.job_market.occupations import NOTICE
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY, to_us

with (Path(__file__).parent / "knowledge_areas.tsv").open(encoding="utf-8", newline="") as _file:
    NEEDS = {group: areas for group, *areas in csv.reader(_file, delimiter="\t")}
"""The O*NET knowledge areas that occupations of a group ask for: a guess, made for this script."""
GROUPS = list(NEEDS)
AREAS = sorted({area for areas in NEEDS.values() for area in areas})
LEVELS = ("Introduction to {}", "{} in practice", "Advanced {}")
ENROL, COMPLETE, DROP = "ENROL", "COMPLETE", "DROP"
_GOAL, _ENROLS, _ENDS = range(3)  # what may come next; at one moment a goal comes first

FOCUS = 5.0
"""Utility of a course of the area asked for most, at the next level."""
SHARES = (1.0, 0.75, 0.5, 0.3)
"""How much the four areas of an occupation count, in an order of the occupation's own."""
OWN_GROUP = 1.5
"""Utility added by a course for people of the learner's own group."""
LEVEL_GAP = 3.0
"""Utility lost with each level that a course is away from the next one."""
ATTRACTIVENESS = 0.7
"""Standard deviation of what a course adds to everyone's utility."""
LIKED_AFTER_DROP = 0.3
"""How much of the interest in an area is left after a course of it was dropped."""
COMPLETES = {True: 0.85, False: 0.3}
"""Share of courses that are completed, by whether the learner's occupation asks for their area."""
DAYS_BETWEEN, DAYS_BETWEEN_SPREAD = 20.0, 0.5
"""Median over learners of the mean days between enrolments, and the spread of its log."""
DAYS_OF_COURSE = 14.0
"""Mean days from an enrolment to its end."""
JOINING = 0.7
"""Share of learners who join after the start, at any time; the others are there from then on."""
JOB_SESSIONS = 2.0
"""Median over learners of their sessions on the job market in 28 days."""

TIME = pa.timestamp("us", tz="UTC")
VECTOR = pa.list_(pa.float32())
EVENTS_SCHEMA = pa.schema(
    [("learner_id", pa.string()), ("course_code", pa.string()), ("verb", pa.string()), ("at", TIME)]
)
COURSES_SCHEMA = pa.schema(
    [
        ("course_code", pa.string()),
        ("title", pa.string()),
        ("group", pa.list_(pa.string())),
        ("since", TIME),
    ]
)
README = f"""\
# Simulated learners

**Simulated** by `learners.py`: no figure measured on it says anything of real learners. {NOTICE}
"""


@dataclass(frozen=True)
class Courses:
    """The catalogue: m courses, of each area that a group asks for one a level.

    Attributes
    ----------
    codes, titles
        m strings each.
    area, level, group
        int [m]; positions in `AREAS`, `LEVELS` and `GROUPS`.
    vectors
        float32 [m, D], what a learner's preference is multiplied with: area and level, group, and
        the attractiveness, which counts for everyone alike.
    """

    codes: list[str]
    titles: list[str]
    area: np.ndarray
    level: np.ndarray
    group: np.ndarray
    vectors: np.ndarray

    @classmethod
    def of(cls, random: np.random.Generator) -> Courses:
        """Draw the courses; random is only how attractive each is."""
        taught = [
            (AREAS.index(area), level, group)
            for group, areas in enumerate(NEEDS.values())
            for area in areas
            for level in range(len(LEVELS))
        ]
        area, level, group = np.array(taught).T
        numbers: dict[tuple[int, int], int] = {}
        codes, titles = [], []
        for a, rank, g in taught:
            number = numbers[a, rank] = numbers.get((a, rank), 0) + 1
            codes.append(f"{AREAS[a].split()[0][:4].upper()}-{(rank + 1) * 100 + number}")
            titles.append(f"{LEVELS[rank].format(AREAS[a])} for {GROUPS[g]}")
        vectors = np.zeros((len(taught), len(AREAS) * len(LEVELS) + len(GROUPS) + 1), np.float32)
        rows = np.arange(len(taught))
        vectors[rows, area * len(LEVELS) + level] = 1
        vectors[rows, len(AREAS) * len(LEVELS) + group] = 1
        vectors[:, -1] = ATTRACTIVENESS * random.standard_normal(len(taught))
        return cls(codes, titles, area, level, group, vectors)

    def table(self, since: int) -> pa.Table:
        """Return the catalogue as a table, all courses offered since a time in microseconds."""
        groups = [[GROUPS[g], AREAS[a]] for g, a in zip(self.group, self.area, strict=True)]
        offered = [since] * len(self.codes)
        return pa.table([self.codes, self.titles, groups, offered], schema=COURSES_SCHEMA)


@dataclass
class Learner:
    """What a learner wants and knows at one moment.

    Attributes
    ----------
    random
        Random numbers of this learner alone.
    group
        Position in `GROUPS` of the occupation that the learner heads for.
    asked
        float [areas]; how much that occupation asks for each area.
    completed
        int [areas]; the highest level completed, 0 for none.
    liked
        float [areas]; what dropped courses left of the interest in each area.
    """

    random: np.random.Generator
    group: int = 0
    asked: np.ndarray = field(default_factory=lambda: np.zeros(len(AREAS)))
    completed: np.ndarray = field(default_factory=lambda: np.zeros(len(AREAS), np.int64))
    liked: np.ndarray = field(default_factory=lambda: np.ones(len(AREAS)))

    def head_for(self, occupation: int, group: str) -> None:
        """Head for an occupation, a position in the O*NET list."""
        areas = [AREAS.index(area) for area in NEEDS[group]]
        self.group, self.asked = GROUPS.index(group), np.zeros(len(AREAS))
        self.asked[np.random.default_rng(occupation).permutation(areas)] = SHARES

    def preference(self) -> np.ndarray:
        """Return what course vectors are multiplied with to give utilities, float32 [D]."""
        gap = np.abs(np.arange(len(LEVELS)) - self.completed[:, None])
        levels = FOCUS * (self.asked * self.liked)[:, None] - LEVEL_GAP * gap
        groups = OWN_GROUP * (np.arange(len(GROUPS)) == self.group)
        return np.concatenate([levels.ravel(), groups, [1]]).astype(np.float32)

    def chooses(self, courses: Courses, left: np.ndarray) -> int:
        """Return the course that the learner enrols in, of those left, bool [m]."""
        utility = courses.vectors @ self.preference() + self.random.gumbel(size=len(left))
        return int(np.where(left, utility, -np.inf).argmax())

    def ends(self, area: int, level: int) -> str:
        """End a course of an area and level, and return what became of it."""
        serves = bool(self.asked[area] > 0)
        if self.random.random() < COMPLETES[serves]:
            self.completed[area] = max(self.completed[area], level + 1)
            return COMPLETE
        self.liked[area] *= LIKED_AFTER_DROP
        return DROP


@dataclass(frozen=True, kw_only=True)
class School:
    """Learners, courses, and the job market whose members the learners are.

    Attributes
    ----------
    learners
        Number of learners.
    days
        Simulated, from the start of the market on.
    seed
        Of random numbers.
    """

    learners: int = 4000
    days: int = 150
    seed: int = 0

    @cached_property
    def market(self) -> JobMarket:
        """The job market."""
        return JobMarket(
            members=self.learners, days=self.days, seed=self.seed, sessions=JOB_SESSIONS
        )

    def write(self, out: Path) -> dict[str, int]:
        """Write all files into a folder, and return how many rows each has.

        `enrolments` and `courses.parquet` are the school's, `job_events` and `job_postings.parquet`
        those of the job market. `truth` has what is known of learners and courses, for an oracle.
        """
        with tempfile.TemporaryDirectory() as folder:
            market = Path(folder)
            self.market.write(market)
            directions = pq.read_table(market / "truth" / "members.parquet")
            job_events = _of_learners(pq.read_table(market / "activity_events"))
            job_postings = pq.read_table(market / "job_postings.parquet")
        courses = Courses.of(np.random.default_rng([self.seed, 1]))
        start = to_us(self.market.start)
        events, preferences = self._simulate(courses, directions, start)
        tables = {
            "enrolments/history": events,
            "courses": courses.table(start),
            "job_events/history": job_events,
            "job_postings": job_postings,
            "truth/members": preferences,
            "truth/items": pa.table(
                {"course_code": courses.codes, "vector": pa.array([*courses.vectors], VECTOR)}
            ),
        }
        for name, table in tables.items():
            file = out / f"{name}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, file, compression="zstd")
        (out / "README.md").write_text(README, encoding="utf-8")
        return {f"{name}.parquet": table.num_rows for name, table in tables.items()}

    def _simulate(
        self, courses: Courses, directions: pa.Table, start: int
    ) -> tuple[pa.Table, pa.Table]:
        """Return what learners do, by time, and what they prefer from when on."""
        occupations = self.market.occupations
        wanted = np.stack(directions["preference"].to_numpy(zero_copy_only=False))[:, :-1]
        nearest = (wanted @ occupations.vectors.T).argmax(axis=1)
        since = directions["event_timestamp"].cast(pa.int64()).to_numpy() - start
        changes: dict[int, list[tuple[float, int]]] = {}
        for member, time, occupation in zip(
            directions["member_id"].to_pylist(), since / MICROSECONDS_PER_DAY, nearest, strict=True
        ):
            changes.setdefault(member, []).append((time, int(occupation)))
        done, preferred = [], []
        for member, goals in changes.items():
            name = learner_id(member)
            learner = Learner(np.random.default_rng([self.seed, 2, member]))
            for day, verb, course in self._days_of(learner, goals, courses):
                at = start + int(day * MICROSECONDS_PER_DAY)
                if verb:
                    done.append((at, name, courses.codes[course], verb))
                if verb != ENROL:
                    preferred.append((name, at, learner.preference()))
        done.sort()
        at, names, codes, verbs = zip(*done, strict=True)
        members, times, vectors = zip(*preferred, strict=True)
        preferences = {
            "learner_id": members,
            "event_timestamp": pa.array(times, TIME),
            "preference": pa.array(vectors, VECTOR),
        }
        return pa.table([names, codes, verbs, at], schema=EVENTS_SCHEMA), pa.table(preferences)

    def _days_of(
        self, learner: Learner, goals: list[tuple[float, int]], courses: Courses
    ) -> Iterator[tuple[float, str, int]]:
        """Yield what happens to one learner: (day, verb, course), the verb "" for a new goal."""
        random, occupations = learner.random, self.market.occupations
        pace = DAYS_BETWEEN * np.exp(DAYS_BETWEEN_SPREAD * random.standard_normal())
        left = np.ones(len(courses.codes), bool)
        # (day, what, of which occupation or course).
        coming = [(day, _GOAL, occupation) for day, occupation in goals]
        joined = random.uniform(0, self.days) if random.random() < JOINING else 0.0
        coming.append((joined + random.exponential(pace), _ENROLS, -1))
        heapq.heapify(coming)
        while coming and coming[0][0] < self.days:
            day, what, which = heapq.heappop(coming)
            if what == _GOAL:
                learner.head_for(which, occupations.groups[which])
                yield day, "", -1
            elif what == _ENROLS:
                course = learner.chooses(courses, left)
                left[course] = False
                heapq.heappush(coming, (day + random.gamma(2, DAYS_OF_COURSE / 2), _ENDS, course))
                heapq.heappush(coming, (day + random.exponential(pace), _ENROLS, -1))
                yield day, ENROL, course
            else:
                area, level = int(courses.area[which]), int(courses.level[which])
                yield day, learner.ends(area, level), which


def learner_id(member: int) -> str:
    """Return the id that a member of the market has as a learner."""
    return f"L{member:05d}"


def _of_learners(events: pa.Table) -> pa.Table:
    """Return the market's events, of members under their ids as learners."""
    names = pa.array([learner_id(member) for member in events["member_id"].to_pylist()])
    return events.set_column(events.column_names.index("member_id"), "learner_id", names)


def main() -> None:
    """Write the files and print how many rows each has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="new folder to write to")
    parser.add_argument("--learners", type=int, default=School.learners)
    parser.add_argument("--days", type=int, default=School.days)
    parser.add_argument("--seed", type=int, default=School.seed)
    options = parser.parse_args()
    school = School(learners=options.learners, days=options.days, seed=options.seed)
    for name, rows in school.write(options.out).items():
        print(f"{name}: {rows:,} rows")


if __name__ == "__main__":
    main()
