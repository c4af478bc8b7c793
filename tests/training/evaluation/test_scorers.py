"""What is handed to a user's model that scores items."""

import sys

import numpy as np
import pytest

from activity_embeddings.training.evaluation.queries import like_queries, ranking_queries
from activity_embeddings.training.evaluation.scorers import ScoringModel, load_scorer
from activity_embeddings.transformations.errors import InvalidInput
from support.reference import US_PER_DAY
from support.training_cases import event, history_of, period


class Peeking:
    """Scores rows by their label, or as it may be found."""

    def columns(self, sequences, queries):
        scores = queries.target.astype(np.float32)
        scores[queries.wanted] += 1
        return scores[:, None]


@pytest.mark.parametrize("queries_of", [ranking_queries, like_queries])
def test_a_scorer_is_not_told_what_was_wanted(queries_of):
    events = [event(1, 0, "SAVE", -9), event(1, 1, "SAVE", 1), event(1, 2, "DISMISS", 2)]
    history = history_of(events, [(j, -10, [1.0, 0.0]) for j in range(3)])
    queries = queries_of(history, period(0, US_PER_DAY))
    before = queries.target.tolist()
    columns = ScoringModel("theirs", "", (Peeking(),)).columns(queries.sequences, queries, 0)
    assert columns.tolist() == [[0.0]] * len(before)
    assert queries.target.tolist() == before == [1, 0]


THEIRS = """
import helpers_of_theirs

class Making:
    def __init__(self, data):
        helpers_of_theirs.fail()

class Asking:
    def __init__(self, data):
        pass

    def columns(self, sequences, queries):
        return json_of(queries)

def json_of(queries):
    import json
    return json.loads("{")
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """The folder of a module of a user's own, and of one that it imports."""
    for name, text in (
        ("theirs", THEIRS),
        ("helpers_of_theirs", "def fail():\n    raise RuntimeError('boom')\n"),
        ("theirs_broken", "\nraise RuntimeError('at once')\n"),
    ):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "received"),
    [
        ("theirs:Making", "RuntimeError: boom, {folder}/helpers_of_theirs.py:2"),
        ("theirs_broken:Making", "RuntimeError: at once, {folder}/theirs_broken.py:2"),
        ("nowhere:Making", "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_what_raises_while_a_scorer_is_made_is_said_with_its_name_and_place(theirs, spec, received):
    with pytest.raises(InvalidInput) as raised:
        load_scorer("mine", spec, None)
    says = str(raised.value)
    assert says.startswith(f"--scorer mine={spec}: expected MODULE:NAME of a class or function")
    assert says.endswith(f"Received: {received.format(folder=theirs)}")


def test_what_a_scorer_raises_is_said_with_its_name_and_place(theirs):
    events = [event(1, 0, "SAVE", -9), event(1, 1, "SAVE", 1)]
    history = history_of(events, [(j, -10, [1.0, 0.0]) for j in range(3)])
    queries = ranking_queries(history, period(0, US_PER_DAY))
    scorer = load_scorer("mine", "theirs:Asking", None)
    with pytest.raises(InvalidInput) as raised:
        scorer.columns(queries.sequences, queries, 0)
    says = str(raised.value)
    assert says.startswith("scores of 'mine': expected finite numbers [")
    # The last line of their own, not that of what it calls.
    assert says.endswith(f", {theirs}/theirs.py:17")
    assert "Received: JSONDecodeError: " in says
