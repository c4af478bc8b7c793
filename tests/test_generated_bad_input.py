"""Some hundred generated inputs, of which `benchmarks/bad_inputs.py` gives thousands."""

import random

import pytest

from support.bad_inputs import areas, attempt

pytestmark = [pytest.mark.slow, pytest.mark.process]

INPUTS = 800


@pytest.fixture(scope="module")
def found(tmp_path_factory, models):
    with areas(tmp_path_factory.mktemp("bad"), models) as found:
        yield {area.name: area for area in found}


@pytest.mark.parametrize(
    "name",
    [
        "files of events",
        "files of item vectors",
        "pushed frames",
        "pushed files",
        "requests",
        "definitions",
        "manifests",
        "settings",
        "commands",
        "runs",
    ],
)
def test_each_input_is_refused_by_name_or_used_rightly(name, found):
    area, draw = found[name], random.Random(f"suite {name}")
    wrong = [attempt(area, draw) for _ in range(round(INPUTS * area.share))]
    assert not list(filter(None, wrong))
    assert area.counts["refused"] > area.counts["used"] / 2
