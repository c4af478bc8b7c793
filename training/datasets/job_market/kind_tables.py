"""The other kinds of activity of a simulated market as tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from activity_embeddings.training.datasets.job_market.kind_items import HEADLINES, Posts, Searches
from activity_embeddings.training.datasets.job_market.kinds import (
    CAUSES,
    KIND_ACTIONS,
    POST,
    SEARCH,
    STATUS,
    KindActivity,
    draw_reading,
    draw_searches,
    draw_status_changes,
)
from activity_embeddings.training.datasets.job_market.members import Directions
from activity_embeddings.training.datasets.job_market.occupations import Occupations
from activity_embeddings.training.datasets.job_market.sessions import Sessions
from activity_embeddings.training.datasets.job_market.settings import (
    READ_STREAM,
    SEARCH_STREAM,
    STATUS_STREAM,
    MarketSettings,
)
from activity_embeddings.transformations.names import ACTION, EVENT_TIMESTAMP, ITEM_ID, MEMBER_ID
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY, to_us

NO_JOB = -1
"""Job id of what is no job: an encoder of postings knows it by its text alone."""
TIME = pa.timestamp("us", tz="UTC")
_ID_TYPES = {SEARCH: pa.string(), STATUS: pa.string(), POST: pa.int64()}


def item_id(kind: str) -> str:
    """Return the column of the ids of a kind's items."""
    return f"{kind}_id"


def events_schema(kind: str) -> pa.Schema:
    """Return the columns of a kind's events."""
    return pa.schema(
        [
            (MEMBER_ID, pa.int64()),
            (item_id(kind), _ID_TYPES[kind]),
            (ACTION, pa.string()),
            (EVENT_TIMESTAMP, TIME),
        ]
    )


def items_schema(kind: str) -> pa.Schema:
    """Return the columns of a kind's items: an id, and the columns of postings."""
    return pa.schema(
        [
            (item_id(kind), _ID_TYPES[kind]),
            (ITEM_ID, pa.int64()),
            ("title", pa.string()),
            ("description", pa.string()),
            ("group", pa.list_(pa.string())),
            (EVENT_TIMESTAMP, TIME),
        ]
    )


def truth_schema(kind: str) -> pa.Schema:
    """Return the columns of what each of a kind's events came from."""
    return pa.schema(
        [
            *events_schema(kind),
            ("occupation", pa.string()),
            ("cause", pa.string()),
            ("since", TIME),
            ("before", TIME),
        ]
    )


@dataclass(frozen=True)
class KindTables:
    """What members search for, say of themselves and read.

    Parameters
    ----------
    settings
        Those of the market.
    occupations
        Those of the market.
    """

    settings: MarketSettings
    occupations: Occupations

    @cached_property
    def searches(self) -> Searches:
        """The queries that members type."""
        return Searches.of(self.occupations)

    @cached_property
    def posts(self) -> Posts:
        """The posts that members read."""
        return Posts.of(self.settings, self.occupations)

    def items(self, kind: str) -> pa.Table:
        """Return the items of a kind, a table of `items_schema`.

        They have the columns of postings, so that an encoder of postings encodes them too; their
        job id is `NO_JOB`. Queries and statuses are known from the market's start on, a post from
        when it was posted.
        """
        known, start = self.occupations, to_us(self.settings.start)
        if kind == POST:
            posts = self.posts
            titles = [
                HEADLINES[headline].format(known.titles[occupation])
                for headline, occupation in zip(posts.headline, posts.occupation, strict=True)
            ]
            texts = [known.descriptions[occupation] for occupation in posts.occupation]
            groups = [[known.groups[occupation]] for occupation in posts.occupation]
            time = start + posts.posted
        else:
            titles = texts = self.searches.texts if kind == SEARCH else known.titles
            groups = [[] for _ in titles] if kind == SEARCH else [[group] for group in known.groups]
            time = np.full(len(titles), start)
        ids, no_job = self._ids(kind), np.full(len(titles), NO_JOB)
        return pa.table([ids, no_job, titles, texts, groups, time], schema=items_schema(kind))

    def activity(
        self, kind: str, directions: Directions, sessions: Sessions, *stream: int
    ) -> KindActivity:
        """Return what the members of a block do of a kind; `stream` says which block it is."""
        settings = self.settings
        if kind == SEARCH:
            random = settings.random(SEARCH_STREAM, *stream)
            return draw_searches(
                settings, self.occupations, self.searches, directions, sessions, random
            )
        if kind == STATUS:
            random = settings.random(STATUS_STREAM, *stream)
            return draw_status_changes(settings, directions, sessions, random)
        random = settings.random(READ_STREAM, *stream)
        return draw_reading(settings, self.posts, directions, random)

    def tables(
        self, kind: str, activity: KindActivity, first: int, members: int
    ) -> tuple[pa.Table, pa.Table]:
        """Return the events of a kind by the first members of a block, and their truth.

        Parameters
        ----------
        first
            Id of the first member of the block.
        members
            How many of them there are.

        Returns
        -------
        tuple[pa.Table, pa.Table]
            Events : table of `events_schema`, by time. truth : table of `truth_schema`, row by row;
            `before` is null where no session followed.
        """
        start = to_us(self.settings.start)
        done = activity.within(members, self.settings.days * MICROSECONDS_PER_DAY)
        events = pa.table(
            [
                done.member + first,
                self._ids(kind).take(pa.array(done.item)),
                pa.array(KIND_ACTIONS[kind]).take(pa.array(done.action)),
                done.time + start,
            ],
            schema=events_schema(kind),
        )
        before = pa.array(np.where(done.followed, done.before + start, 0), mask=~done.followed)
        truth = [
            pa.array(self.occupations.titles).take(pa.array(done.occupation)),
            pa.array(CAUSES).take(pa.array(done.cause)),
            done.since + start,
            before,
        ]
        return events, pa.table([*events.columns, *truth], schema=truth_schema(kind))

    def _ids(self, kind: str) -> pa.Array:
        if kind == SEARCH:
            return pa.array(self.searches.texts)
        if kind == STATUS:
            return pa.array(self.occupations.codes)
        return pa.array(np.arange(1, self.settings.posts + 1))
