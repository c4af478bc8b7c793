"""Settings of networks, objectives, towers and fits: numbers out of range are refused."""

import math
from dataclasses import fields

import pytest

from activity_embeddings.training.examples.held_out import Windows
from activity_embeddings.training.fitting.loop import Fit
from activity_embeddings.training.item_encoder.towers import TowerSettings
from activity_embeddings.training.models import CNN, GRU, LSTM, Transformer
from activity_embeddings.training.objectives.future_positives import FuturePositives
from activity_embeddings.training.objectives.next_positive import NextPositive
from activity_embeddings.training.objectives.next_session import NextSession
from activity_embeddings.training.objectives.proxy import Proxy
from activity_embeddings.transformations.errors import InvalidInput

NETWORKS = (CNN, GRU, LSTM, Transformer)
OBJECTIVES = (FuturePositives, NextPositive, NextSession, Proxy)
NUMBERS = [
    (settings, field.name, field.type.split(" | ")[0])
    for settings in (*NETWORKS, *OBJECTIVES, Fit, TowerSettings, Windows)
    for field in fields(settings)
    if field.type.split(" | ")[0] in ("int", "float")
]
SIZES = ("filters", "kernel_size", "convolutions", "units", "width", "heads", "blocks", "hidden")


@pytest.mark.parametrize(("settings", "name", "_"), NUMBERS)
def test_a_number_below_0_is_refused_by_the_name_of_its_setting(settings, name, _):
    with pytest.raises(InvalidInput, match=rf"`{name}` should be .*Received: .*-1"):
        settings(**{name: -1})


@pytest.mark.parametrize(
    ("settings", "name"), [(s, n) for s, n, kind in NUMBERS if kind == "float"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_finite_number_is_refused_by_the_name_of_its_setting(settings, name, value):
    with pytest.raises(InvalidInput, match=rf"`{name}` should be .*Received: .*{value}"):
        settings(**{name: value})


@pytest.mark.parametrize(("settings", "name"), [(s, n) for s, n, _ in NUMBERS if n in SIZES])
def test_a_size_of_0_is_refused(settings, name):
    with pytest.raises(InvalidInput, match=rf"`{name}` should be 1 or more. Received: 0"):
        settings(**{name: 0})


def test_an_objective_without_anything_to_rank_against_is_refused():
    with pytest.raises(InvalidInput, match=r"^next_positive: expected items .*Received: none"):
        NextPositive(day_negatives=0)
    for against in ({"in_batch": True}, {"listwise": True}, {"popular_negatives": 1}):
        assert NextPositive(day_negatives=0, **against).day_negatives == 0
