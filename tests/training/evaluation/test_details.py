"""What is wanted within a period, for the quality of embeddings alone."""

from hypothesis import given, settings
from hypothesis import strategies as st
from training_cases import PERIODS, SPEC, histories, history_of, period
from training_reference import POSITIVE, distinct

from activity_embeddings.training.evaluation.details import wanted_within


@settings(max_examples=150, deadline=None)
@given(histories(), PERIODS, st.data())
def test_what_is_wanted_is_that_of_a_loop(case, bounds, data):
    events, vectors = case
    start, end = bounds
    history = history_of(events, vectors, SPEC)
    member_ids = history.events.member_ids.to_pylist()
    item_ids = history.vectors.item_ids.to_pylist()
    every = list(range(len(member_ids)))
    members = sorted(data.draw(st.sets(st.sampled_from(every), min_size=1)))
    items = sorted(data.draw(st.sets(st.integers(0, len(item_ids) - 1))))
    first, wanted = wanted_within(history, period(start, end), members, items)
    assert first[0] == 0
    assert first[-1] == len(wanted)
    for i, member in enumerate(members):
        expected = sorted(
            e["job_id"]
            for e in distinct(events)
            if e["member_id"] == member_ids[member]
            and start <= e["time"] < end
            and e["action"] in POSITIVE
            and e["job_id"] in {item_ids[j] for j in items}
        )
        found = sorted(item_ids[items[j]] for j in wanted[first[i] : first[i + 1]])
        assert found == expected
