"""What is handed to a user's model that scores items."""

import numpy as np
import pytest

from activity_embeddings.training.evaluation.queries import like_queries, ranking_queries
from activity_embeddings.training.evaluation.scorers import ScoringModel
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
