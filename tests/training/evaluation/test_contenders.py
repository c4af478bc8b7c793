"""What manifests say of the days that models learned from."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from activity_embeddings.training.evaluation.contenders import Contenders, require_earlier
from activity_embeddings.transformations.errors import InvalidInput

RANK_FROM = datetime(2024, 2, 12, tzinfo=UTC)
EARLY, LATE = "2024-02-12T00:00:00+00:00", "2024-02-12T01:00:00+01:00"
LATER = "2024-02-26T00:00:00+00:00"
ENDS = {
    "a network of its own": lambda end: {"period": {"start": EARLY, "end": end}},
    "chosen later": lambda end: {"period": {"end": EARLY}, "validation": {"end": end}},
    "trained with item vectors": lambda end: {
        "start": EARLY,
        "end": end,
        "validation_start": EARLY,
    },
}


def unknown(training):
    manifest = {} if training is None else {"training": training}
    described = {"mine": [SimpleNamespace(manifest=manifest)]}
    return Contenders({}, described, {}, [], "mine").of_unknown_training()


@pytest.mark.parametrize("training", ENDS.values(), ids=ENDS)
def test_a_model_that_saw_labels_of_the_rankers_days_is_refused(training):
    for end in (EARLY, LATE, "2024-02-12"):
        require_earlier("mine", {"training": training(end)}, RANK_FROM, "the ranker learns")
    with pytest.raises(
        InvalidInput, match=r"'mine': .* Received: one that saw labels until 2024-02-26"
    ):
        require_earlier("mine", {"training": training(LATER)}, RANK_FROM, "the ranker learns")
    assert not unknown(training(EARLY))


@pytest.mark.parametrize("end", ["yesterday", 3.5e300])
def test_an_end_of_training_that_is_no_moment_is_one_clear_error(end):
    with pytest.raises(InvalidInput, match=r"model 'mine': the end of its training"):
        require_earlier("mine", {"training": {"end": end}}, RANK_FROM, "the ranker learns")


@pytest.mark.parametrize("training", [None, {}, {"epochs": 3}, {"start": EARLY, "examples": 3}])
def test_a_model_whose_manifest_has_no_end_of_training_is_named(training):
    (said,) = unknown(training)
    assert said.startswith("The manifest of mine does not say which days it learned from")


def test_a_model_that_learned_nothing_has_no_days_to_name():
    assert not unknown({"epochs": 0})
