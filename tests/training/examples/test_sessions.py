"""Sessions are runs of one member's activity without a longer gap."""

from hypothesis import given
from hypothesis import strategies as st

from activity_embeddings.training.examples.sessions import session_starts
from support.training_cases import at, event, events_of


def slow_starts(times, gap):
    """Return the places of a member's times that begin a session."""
    return [i for i, time in enumerate(times) if i == 0 or time - times[i - 1] > gap]


@given(
    st.lists(st.lists(st.integers(0, 40), max_size=8), max_size=4).filter(any),
    st.integers(1, 10),
)
def test_a_session_starts_with_a_member_or_after_a_longer_gap(times, gap):
    rows = [
        # Items tell apart what happens at one time.
        event(member, place, "APPLY", at(time))
        for member, of_member in enumerate(times)
        for place, time in enumerate(sorted(of_member))
    ]
    expected, before = [], 0
    for of_member in times:
        expected += [before + i for i in slow_starts(sorted(of_member), gap)]
        before += len(of_member)
    assert session_starts(events_of(rows), gap).tolist() == expected
