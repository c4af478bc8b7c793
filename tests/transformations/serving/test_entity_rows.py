"""Rows of requests are in the one form that Feast takes in every case."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.serving.entity_rows import entity_rows

MOMENT = datetime(2024, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def test_every_row_has_every_key_and_null_where_there_is_nothing():
    recent = {7: [(42, "APPLY", "2024-03-01T12:00:00Z"), (43, "SAVE", MOMENT)], 8: []}
    rows = entity_rows([7, 8, 9], recent)
    nothing = dict.fromkeys(
        ["recent_job_ids", "recent_job_actions", "recent_job_timestamps", "request_timestamp"]
    )
    assert rows == [
        {
            "member_id": 7,
            "recent_job_ids": [42, 43],
            "recent_job_actions": ["APPLY", "SAVE"],
            "recent_job_timestamps": ["2024-03-01T12:00:00Z", "2024-03-01T12:00:00.250000+00:00"],
            "request_timestamp": None,
        },
        {"member_id": 8, **nothing},
        {"member_id": 9, **nothing},
    ]


@pytest.mark.parametrize(
    "time",
    [
        MOMENT,
        MOMENT.replace(tzinfo=None),
        MOMENT.astimezone(timezone(timedelta(hours=-7))),
        MOMENT.timestamp(),
        MOMENT.isoformat(),
        np.datetime64(MOMENT.replace(tzinfo=None)),
        pd.Timestamp(MOMENT),
    ],
    ids=["UTC", "naive", "other zone", "seconds", "ISO", "numpy", "pandas"],
)
def test_times_keep_their_microseconds(time):
    (row,) = entity_rows(["m"], {"m": [("j", "SAVE", time)]}, request_timestamp=time)
    assert datetime.fromisoformat(row["recent_job_timestamps"][0]) == MOMENT
    assert datetime.fromisoformat(row["request_timestamp"]) == MOMENT


def test_a_request_for_nobody_is_refused():
    with pytest.raises(InvalidInput, match=r"expected at least one member. Received: none"):
        entity_rows([])


@pytest.mark.parametrize("time", ["noon", pd.NaT, 1_709_294_400_250, True, None], ids=repr)
def test_what_is_no_time_is_refused_by_member_and_column(time):
    with pytest.raises(InvalidInput, match="member 7: recent_job_timestamps should be a datetime"):
        entity_rows([7], {7: [(42, "SAVE", time)]})
    if time is not None:
        with pytest.raises(InvalidInput, match="member 7: request_timestamp should be a datetime"):
            entity_rows([7], request_timestamp=time)
