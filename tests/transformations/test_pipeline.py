"""Which as-of times an interval has."""

import pytest
from feast_repo import at, us

from transformations.pipeline import cutoffs

DAY = 86_400_000_000


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 2, [1, 2]),
        (0.5, 2.25, [1, 2, 2.25]),
        (0, 0.5, [0.5]),
        (0.25, 1, [1]),
        (1, 1, [1]),
    ],
)
def test_an_interval_has_each_midnight_after_its_start_and_its_end(start, end, expected):
    assert cutoffs(us(at(start)), us(at(end)), DAY) == [us(at(day)) for day in expected]


def test_a_finer_grid():
    assert cutoffs(us(at(0)), us(at(0.25)), DAY // 8) == [us(at(0.125)), us(at(0.25))]
