"""How several scores of an item are added where no ranker learns it: by weights that are tried.

A model has one vector or several, and popularity counts beside them. Each vector has a weight, and
all of them together a share beside popularity. Both are chosen on days before the test, by
coordinate ascent: one number after the other takes the value that is best while the others stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from activity_embeddings.training.fitting.validation import SHARES

WEIGHTS = (1.0, 2.0, 0.5, 0.0, -0.5, -1.0)
"""What a vector may count; that of an action which was not wanted may count against an item."""
ROUNDS = 3
"""How often every number is tried again, as long as one of them changes."""


class Mix(NamedTuple):
    """How much each score counts.

    Attributes
    ----------
    share
        Of the vectors together, in [0, 1]; the rest is popularity's.
    weights
        Of each vector.
    """

    share: float
    weights: tuple[float, ...]


def best_mix(figure: Callable[[Mix], float], wanted: Sequence[bool]) -> Mix:
    """Return the mix that coordinate ascent ends at, in at most `ROUNDS` rounds.

    Begins with a weight of 1 for each vector of something wanted, and of 0 for the others. The
    weight of a single vector stays 1, since its share says the same. Of equal figures the one that
    is tried first counts.

    Parameters
    ----------
    figure
        Tells how good a mix is; higher is better.
    wanted
        Whether each vector is of something wanted.
    """
    numbers = (SHARES[0], *(float(each) for each in wanted))
    choices = [SHARES, *([WEIGHTS] * len(wanted) if len(wanted) > 1 else [])]
    highest = figure(Mix(numbers[0], numbers[1:]))
    for _ in range(ROUNDS):
        before = numbers
        for place, values in enumerate(choices):
            for value in values:
                tried = (*numbers[:place], value, *numbers[place + 1 :])
                if tried != numbers and (reached := figure(Mix(tried[0], tried[1:]))) > highest:
                    numbers, highest = tried, reached
        if numbers == before:
            break
    return Mix(numbers[0], numbers[1:])
