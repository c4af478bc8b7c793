"""What a first look refuses to measure; what it prints is held by `test_measure_command`."""

from pathlib import Path

import pytest

from activity_embeddings.training.evaluation.arms import ArmRole
from activity_embeddings.training.evaluation.contenders import EvaluatedModel
from activity_embeddings.training.evaluation.first_look import first_look
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ItemVectorSpec
from support.reference import US_PER_DAY
from support.training_cases import event, history_of, period

DAY = US_PER_DAY
TEST = period(10 * DAY, 20 * DAY)


def look(choose, models=()):
    """Look at members who act on an item and want another one, every day."""
    events = [event(m, m + i, "SAVE", m * DAY + i) for m in range(20) for i in (0, 1)]
    history = history_of(events, [(j, -1, [float(j), 1.0]) for j in range(21)])
    vector_spec = ItemVectorSpec("test", "1", 2)
    return first_look(history, vector_spec, models, choose=choose, test=TEST)


def test_the_days_to_choose_on_end_before_the_test():
    """What is chosen on days of the test, or after them, is chosen by its labels."""
    assert look(period(0, 10 * DAY)).queries == 10
    assert look(period(0, 5 * DAY)).queries == 10
    for choose in (period(0, 10 * DAY + 1), period(12 * DAY, 15 * DAY), period(20 * DAY, 30 * DAY)):
        with pytest.raises(InvalidInput, match=r"end before 1970-01-11 .* Received: until 1970-01"):
            look(choose)


@pytest.mark.parametrize("folders", ["", "ab"])
def test_of_a_model_one_savedmodel_is_measured(folders):
    model = EvaluatedModel("mine", "", ArmRole.LEARNED, tuple(map(Path, folders)))
    message = rf"model 'mine': expected one SavedModel.* Received: {len(folders)}$"
    with pytest.raises(InvalidInput, match=message):
        look(period(0, 10 * DAY), [model])
