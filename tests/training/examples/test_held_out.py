"""Examples are what serving would have seen before each held-out activity, and nothing later."""

from collections import Counter
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.examples.held_out import Windows, hold_out
from activity_embeddings.training.objectives import FuturePositives, NextSession
from activity_embeddings.training.objectives.negatives import (
    concatenate,
    draw_negatives,
    label_counts,
    label_names,
)
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec
from support.reference import US_PER_DAY, sequence, vector_as_of
from support.training_cases import (
    LENGTH,
    MOMENTS,
    PERIODS,
    SPEC,
    WIDE,
    WINDOW_US,
    event,
    held_out_dicts,
    histories,
    history_of,
    period,
)
from support.training_reference import POSITIVE, allowed_items, held_out, shifted_times

pytestmark = pytest.mark.slow

DAY = US_PER_DAY
LABELS = label_names(ActivitySpec())
FACTS = {"window_us": WINDOW_US, "length": LENGTH}
WINDOWS = st.fixed_dictionaries(
    {
        "minimum": st.sampled_from([0, 1, 1, 2, 3]),
        "stride": st.sampled_from([1, 1, 2, 3]),
        "prefixes": st.sampled_from([True, True, False]),
    }
)
SHIFTS = st.integers(0, 3)


def random(seed=0):
    return np.random.default_rng(seed)


def examples(history, of, windows, seed=0):
    return hold_out(history, of, windows=windows, random=random(seed))


def expected_dicts(rows, vectors):
    """Return what the reference gives in the form of `held_out_dicts`."""
    zero = [0.0, 0.0]
    found = []
    for e, before in rows:
        of_inputs = [vector_as_of(vectors, item, e["time"]) for item, _, _ in before]
        found.append(
            {
                "member": e["member_id"],
                "item": e["job_id"],
                "vector": vector_as_of(vectors, e["job_id"], e["time"]),
                "label": e["action"],
                "time": e["time"],
                "before": before,
                "before_vectors": [zero] * (LENGTH - len(before)) + of_inputs,
            }
        )
    return found


# Holding out


def member_with(times, spec=WIDE):
    """One member, one item for each time, known all along."""
    events = [event(7, i, "APPLY", time) for i, time in enumerate(times)]
    vectors = [(i, -1, [1.0, float(i)]) for i in range(len(times))]
    return history_of(events, vectors, spec)


def held_out_items(history, end=100, **windows):
    got = examples(history, period(0, end), Windows(**windows))
    return got.item.tolist(), got.sequences.count.tolist()


def test_four_activities_make_one_example_and_three_make_none():
    history = member_with([10, 20, 30, 40])
    got = examples(history, period(0, 100), Windows())
    assert got.event.tolist() == got.item.tolist() == got.item_rows.tolist() == [3]
    assert got.member.tolist() == [0]
    assert got.sequences.as_of.tolist() == [40]
    assert got.sequences.time[0, -4:].tolist() == [0, 10, 20, 30]
    assert got.label.tolist() == [1]
    assert label_counts(got, history.spec) == {"APPLY": 1}
    assert held_out_items(member_with([10, 20, 30])) == ([], [])


def test_of_a_short_history_the_newest_is_held_out_or_with_prefixes_every_one_in_turn():
    history = member_with([10, 20, 30, 40, 50, 60])
    assert held_out_items(history) == ([5], [5])
    assert held_out_items(history, prefixes=True) == ([3, 4, 5], [3, 4, 5])
    assert held_out_items(history, prefixes=True, minimum=1, stride=2) == ([1, 3, 5], [1, 3, 5])


@pytest.mark.parametrize(
    ("activities", "stride", "held_out"),
    [(32, 1, [31]), (33, 1, [31, 32]), (36, 1, [31, 32, 33, 34, 35]), (36, 2, [31, 33, 35])],
)
def test_more_than_32_activities_give_several_rows_by_a_sliding_window_of_32(
    activities, stride, held_out
):
    history = member_with(range(activities))
    items, counts = held_out_items(history, stride=stride)
    assert items == held_out
    # The oldest of a window is input, its newest is held out.
    assert counts == [min(item, 32) for item in held_out]


def test_activities_tied_with_the_held_out_one_are_not_its_input():
    history = member_with([10, 20, 30, 40, 40])
    assert held_out_items(history, prefixes=True) == ([3, 4], [3, 3])


def test_activities_at_the_edges_of_period_and_window():
    times = [0, 10, 20, 30, 40]
    history = member_with(times, spec=ActivitySpec(window=timedelta(microseconds=20)))
    # Only what is in the period is held out; of [20, 40) two are in the window of 40.
    for start, end, items in ((40, 41, [4]), (39, 40, []), (40, 50, [4]), (30, 40, [3])):
        got = examples(history, period(start, end), Windows(minimum=2))
        assert got.item.tolist() == items
        assert all(count == 2 for count in got.sequences.count)
    assert len(examples(history, period(0, 50), Windows(minimum=3))) == 0


def test_a_item_without_a_vector_at_its_time_is_neither_held_out_nor_input():
    events = [event(7, i, "SAVE", 10 * i) for i in range(6)]
    since = {4: 41, 5: 50}
    vectors = [(i, since.get(i, -1), [1.0, 0.0]) for i in range(6)]
    history = history_of(events, vectors)
    items, counts = held_out_items(history, prefixes=True)
    assert items == [3, 5]
    # Item 4, acted on at 40, is known at 41: input at 50.
    assert counts == [3, 5]
    # The newest activity is not known, so the one before it is held out.
    assert held_out_items(history, end=45) == ([3], [3])


def test_at_most_so_many_rows_of_one_member_at_random():
    events = [event(m, i, "SAVE", 10 * i) for m, n in ((0, 5), (1, 40), (2, 0)) for i in range(n)]
    vectors = [(i, -1, [1.0, 0.0]) for i in range(40)]
    history = history_of(events, vectors)
    few = Windows(minimum=1, prefixes=True, per_member=6)
    kept = Counter()
    for seed in range(200):
        got = examples(history, period(0, 500), few, seed)
        assert Counter(got.member.tolist()) == {0: 4, 1: 6}
        assert (np.diff(got.event) > 0).all()
        kept.update(got.item[got.member == 1].tolist())
    assert set(kept) == set(range(1, 40))
    # 6 of 39, 200 times: within five standard deviations.
    assert all(abs(n - 200 * 6 / 39) < 5 * (200 * 6 / 39) ** 0.5 for n in kept.values())
    same = [examples(history, period(0, 500), few, seed).event.tolist() for seed in (3, 3, 4)]
    assert same[0] == same[1] != same[2]


def test_a_heavy_member_gives_no_more_rows_than_one_full_sequence():
    got = examples(member_with(range(300)), period(0, 500), Windows(prefixes=True))
    assert len(got) == 32
    everything = Windows(prefixes=True, per_member=None)
    assert len(examples(member_with(range(300)), period(0, 500), everything)) == 297


def test_a_period_without_activity_gives_no_examples_and_no_negatives():
    history = member_with([10, 20, 30, 40])
    got = examples(history, period(50, 60), Windows())
    drawn = draw_negatives(got, history, period(50, 60), random=random())
    assert len(got) == len(drawn) == len(concatenate(got, drawn)) == 0
    assert got.item_rows.shape == (0,)
    assert got.sequences.item.shape == (0, 32)
    assert label_counts(got, history.spec) == {}


@pytest.mark.parametrize(("name", "least"), [("minimum", 0), ("stride", 1), ("per_member", 1)])
def test_windows_that_are_too_small_are_refused(name, least):
    received = least - 1
    expected = rf"`{name}` should be {least} or more. Received: {received}"
    with pytest.raises(InvalidInput, match=expected):
        Windows(**{name: received})


@settings(max_examples=100, deadline=None)
@given(histories(), PERIODS, WINDOWS)
def test_held_out_activities_equal_the_reference(case, of, windows):
    events, vectors = case
    start, end = of
    history = history_of(events, vectors, SPEC)
    got = examples(history, period(start, end), Windows(per_member=None, **windows))
    rows = held_out(events, vectors, start=start, end=end, **FACTS, **windows)
    assert held_out_dicts(got, history, LABELS) == expected_dicts(rows, vectors)
    np.testing.assert_array_equal(history.events.item[got.event], got.item)
    np.testing.assert_array_equal(history.events.time[got.event], got.sequences.as_of)
    assert label_counts(got, history.spec) == dict(Counter(e["action"] for e, _ in rows))


@settings(max_examples=75, deadline=None)
@given(histories(), PERIODS, WINDOWS, st.integers(1, 4), st.integers(0, 99))
def test_a_limit_leaves_some_of_the_rows_of_each_member(case, of, windows, most, seed):
    history = history_of(*case, SPEC)
    everything = examples(history, period(*of), Windows(per_member=None, **windows))
    got = examples(history, period(*of), Windows(per_member=most, **windows), seed)
    assert Counter(got.member.tolist()) == {
        member: min(n, most) for member, n in Counter(everything.member.tolist()).items()
    }
    chosen = np.isin(everything.event, got.event)
    expected = held_out_dicts(everything.take(chosen), history, LABELS)
    assert held_out_dicts(got, history, LABELS) == expected


# Negatives


def day_of_many(*, pool=5, positives=2000):
    """Member 0 with many positives on one day; others act on item j j + 1 times on that day."""
    step = DAY // (positives + 1)
    events = [event(0, 100, POSITIVE[i % 2], i * step) for i in range(positives)]
    events += [event(1 + 10 * j + k, j, "DISMISS", 7) for j in range(pool) for k in range(j + 1)]
    vectors = [(j, -1, [float(j), 1.0]) for j in (*range(pool), 100)]
    return history_of(events, vectors)


def negatives(history, of, seed=0, **options):
    got = examples(history, of, Windows(minimum=1, prefixes=True, per_member=None))
    return got, draw_negatives(got, history, of, random=random(seed), **options)


def test_one_negative_for_each_positive_makes_it_half_and_half():
    history = day_of_many(positives=101)
    real, drawn = negatives(history, period(0, DAY))
    assert label_counts(real, history.spec) == {"APPLY": 50, "SAVE": 50}
    together = concatenate(real, drawn)
    assert label_counts(together, history.spec) == {
        "APPLY": 50,
        "SAVE": 50,
        "RAND_NEG_FOR_APPLY": 50,
        "RAND_NEG_FOR_SAVE": 50,
    }
    np.testing.assert_array_equal(drawn.event, real.event)
    np.testing.assert_array_equal(drawn.label, real.label + 3)
    assert LABELS[4:] == ("RAND_NEG_FOR_APPLY", "RAND_NEG_FOR_SAVE", "RAND_NEG_FOR_DISMISS")
    assert len(together) == len(together.sequences) == 200
    np.testing.assert_array_equal(together.item[100:], drawn.item)
    np.testing.assert_array_equal(together.sequences.time[100:], drawn.sequences.time)


def chi_square(counts):
    expected = sum(counts) / len(counts)
    return sum((n - expected) ** 2 / expected for n in counts)


def test_items_are_drawn_uniformly_from_the_distinct_items_of_the_day():
    history = day_of_many(pool=5, positives=4001)
    _, drawn = negatives(history, period(0, DAY))
    counts = np.bincount(drawn.item, minlength=6)
    assert counts.tolist()[5] == 0
    assert counts.sum() == 4000
    # Item j is acted on j + 1 times: by popularity, the statistic would be above 1,000. The
    # quantile 0.999 of 4 degrees of freedom.
    assert chi_square(counts[:5]) < 18.47


def test_items_are_drawn_uniformly_where_nearly_all_items_of_the_day_are_taboo():
    # Member 0 acted on 200 of 205 items: most draws are rejected, and the allowed are listed.
    events = [event(0, 100 + i % 200, "APPLY", 10 * i) for i in range(4001)]
    events += [event(1, j, "SAVE", 7) for j in range(5)]
    vectors = [(j, -1, [float(j), 1.0]) for j in (*range(5), *range(100, 300))]
    history = history_of(events, vectors)
    _, drawn = negatives(history, period(0, DAY))
    counts = np.bincount(drawn.item, minlength=5)
    assert len(counts) == 5
    assert counts.sum() == 4000
    assert chi_square(counts) < 18.47


def test_lists_of_allowed_items_are_made_for_some_at_a_time(monkeypatch):
    monkeypatch.setattr("activity_embeddings.training.objectives.negatives.DRAWS", 0)
    monkeypatch.setattr("activity_embeddings.training.objectives.negatives.LISTED_AT_ONCE", 13)
    history = day_of_many(pool=5, positives=1001)
    _, drawn = negatives(history, period(0, DAY))
    counts = np.bincount(drawn.item, minlength=5)
    assert counts.sum() == len(drawn) == 1000
    assert chi_square(counts) < 18.47


def test_without_a_item_left_a_positive_has_no_negative():
    events = [event(0, item, "APPLY", 10 * item) for item in range(5)]
    events += [event(1, item, "SAVE", DAY + 10 * item) for item in range(5)]
    history = history_of(events, [(j, -1, [1.0, 0.0]) for j in range(5)])
    real, drawn = negatives(history, period(0, 2 * DAY))
    assert len(real) == 8
    assert len(drawn) == 0
    # Member 2 acts on one item of the second day: member 1 has one to draw now.
    vectors = [(j, -1, [1.0, 0.0]) for j in (*range(5), 9)]
    history = history_of([*events, event(2, 9, "SAVE", DAY + 3)], vectors)
    _, drawn = negatives(history, period(0, 2 * DAY))
    assert drawn.member.tolist() == [1, 1, 1, 1]
    assert {history.vectors.item_ids[int(item)].as_py() for item in drawn.item} == {9}


def test_a_item_of_an_earlier_day_within_the_window_is_taboo_and_one_before_it_is_not():
    others = [event(1, item, "SAVE", 30 * DAY + 5) for item in (0, 1)]
    own = [event(0, 0, "DISMISS", 2 * DAY + 10), event(0, 1, "DISMISS", 2 * DAY + 20)]
    own += [event(0, 2, "SAVE", 29 * DAY), event(0, 3, "APPLY", 30 * DAY + 15)]
    vectors = [(j, -1, [1.0, 0.0]) for j in range(4)]
    history = history_of(own + others, vectors)
    # As of 30 d + 15 the window begins at 2 d + 15: after the activity on item 0 alone.
    for seed in range(20):
        _, drawn = negatives(history, period(30 * DAY, 31 * DAY), seed, shift=timedelta(0))
        assert drawn.item.tolist() == [0]
    # It is the window of the negative's own time that counts.
    shift = timedelta(microseconds=10)
    seen = set()
    for seed in range(100):
        _, drawn = negatives(history, period(30 * DAY, 31 * DAY), seed, shift=shift)
        for item, time in zip(drawn.item, drawn.sequences.as_of, strict=True):
            assert time - 28 * DAY > 2 * DAY + (20 if item else 10)
            seen.add(int(item))
    assert seen == {0, 1}


def test_what_anyone_does_after_the_period_on_its_last_day_decides_nothing():
    own = [event(0, item, "SAVE", DAY + 10 * item) for item in range(3)]
    others = [
        event(1, 8, "SAVE", DAY),
        event(1, 9, "SAVE", DAY + 30),
        event(0, 8, "SAVE", DAY + 30),
    ]
    vectors = [(j, -1, [1.0, 0.0]) for j in (0, 1, 2, 8, 9)]
    history = history_of(own + others, vectors)
    ids = history.vectors.item_ids.to_numpy()
    # Item 9 is acted on after the end, and so is item 8 by the member.
    for seed in range(20):
        real, drawn = negatives(history, period(DAY, DAY + 30), seed)
        assert real.item.tolist() == [1, 2]
        assert ids[drawn.item].tolist() == [8, 8]
    _, drawn = negatives(history, period(DAY, DAY + 31))
    assert ids[drawn.item[drawn.member == 0]].tolist() == [9, 9, 9]


def test_times_are_shifted_evenly_in_both_directions_and_stay_in_day_and_period():
    history = day_of_many(positives=4001)
    reach = timedelta(minutes=30)
    reach_us = reach // timedelta(microseconds=1)
    of = period(DAY // 4, 3 * DAY // 4)
    real, drawn = negatives(history, of, shift=reach)
    own, time = real.sequences.as_of, drawn.sequences.as_of
    assert (np.abs(time - own) <= reach_us).all()
    assert (time >= of.start_us).all()
    assert (time < of.end_us).all()
    inside = (own - reach_us >= of.start_us) & (own + reach_us < of.end_us)
    shares = (time - own)[inside] / reach_us
    assert inside.sum() > 1500
    # Ten equal parts of [-1, 1]: the quantile 0.999 of 9 degrees of freedom.
    assert chi_square(np.histogram(shares, bins=10, range=(-1, 1))[0]) < 27.88
    assert abs(shares.mean()) < 4 * (1 / 3 / len(shares)) ** 0.5

    # At the edges of the day, the shift is as far as the day goes.
    real, drawn = negatives(history, period(-DAY, 2 * DAY), shift=timedelta(hours=12))
    assert (drawn.sequences.as_of // DAY == 0).all()
    assert np.ptp(drawn.sequences.as_of) > 0.95 * DAY


def test_the_seed_decides_items_and_times():
    history = day_of_many(positives=50)
    drawn = [negatives(history, period(0, DAY), seed)[1] for seed in (3, 3, 4)]
    for columns in ([d.item.tolist() for d in drawn], [d.sequences.as_of.tolist() for d in drawn]):
        assert columns[0] == columns[1] != columns[2]


def test_the_input_of_a_negative_is_real_activity_before_its_own_time():
    hour = DAY // 24
    events = [event(0, i, "SAVE", 8 * hour + i * hour // 60) for i in range(6)]
    events += [event(1, 10 + i, "SAVE", 9 * hour) for i in range(20)]
    vectors = [(j, -1, [1.0, 0.0]) for j in (*range(6), *range(10, 30))]
    history = history_of(events, vectors)
    of = period(0, DAY)
    seen = set()
    for seed in range(30):
        real, drawn = negatives(history, of, seed, shift=timedelta(minutes=3))
        before = held_out_dicts(drawn, history, LABELS)
        for one, own_time in zip(before, real.sequences.as_of.tolist(), strict=True):
            assert [item for item, _, _ in one["before"]] == [
                i for i in range(6) if events[i]["time"] < one["time"]
            ]
            seen.add(one["time"] > own_time)
    # Shifted to after the positive, the positive itself is real activity before it.
    assert seen == {False, True}


def test_the_vector_of_a_negative_is_that_of_its_own_time():
    noon = DAY // 2
    events = [event(0, 0, "SAVE", 5), event(0, 1, "SAVE", noon), event(1, 8, "SAVE", 7)]
    events += [event(1, 9, "SAVE", 7)]
    # Item 8 gets another vector at noon, item 9 its first.
    vectors = [(0, -1, [0.0, 0.0]), (1, -1, [1.0, 0.0]), (8, -1, [8.0, 0.0])]
    vectors += [(8, noon, [8.0, 1.0]), (9, noon, [9.0, 1.0])]
    history = history_of(events, vectors)
    seen = set()
    for seed in range(50):
        _, drawn = negatives(history, period(0, DAY), seed, shift=timedelta(hours=1))
        (one,) = held_out_dicts(drawn, history, LABELS)
        seen.add((one["time"] >= noon, *one["vector"]))
    assert seen == {(False, 8.0, 0.0), (True, 8.0, 1.0), (True, 9.0, 1.0)}


@settings(max_examples=100, deadline=None)
@given(histories(), PERIODS, WINDOWS, SHIFTS, st.integers(0, 99))
def test_negatives_obey_the_reference(case, of, windows, shift, seed):
    events, vectors = case
    start, end = of
    history = history_of(events, vectors, SPEC)
    real = examples(history, period(*of), Windows(per_member=None, **windows))
    drawn = draw_negatives(
        real, history, period(*of), shift=timedelta(microseconds=shift), random=random(seed)
    )
    positives = {
        int(e): own
        for e, own in zip(real.event, held_out_dicts(real, history, LABELS), strict=True)
        if own["label"] in POSITIVE
    }
    got = held_out_dicts(drawn, history, LABELS)
    assert len(set(drawn.event.tolist())) == len(got)
    assert set(drawn.event.tolist()) <= set(positives)
    assert (np.diff(drawn.event) > 0).all()

    def allowed(member, time):
        return allowed_items(events, vectors, member, time, window_us=WINDOW_US, end=end)

    for of_event, one in zip(drawn.event.tolist(), got, strict=True):
        own = positives.pop(of_event)
        assert one["label"] == f"RAND_NEG_FOR_{own['label']}"
        assert one["member"] == own["member"]
        assert one["time"] in shifted_times(own["time"], shift=shift, start=start, end=end)
        assert one["item"] in allowed(one["member"], one["time"])
        assert one["vector"] == vector_as_of(vectors, one["item"], one["time"])
        before, _ = sequence(events, vectors, one["member"], one["time"], **FACTS)
        assert one["before"] == before
    for own in positives.values():
        times = shifted_times(own["time"], shift=shift, start=start, end=end)
        assert any(not allowed(own["member"], time) for time in times)


# Nothing later


@st.composite
def with_a_later_part(draw):
    """Return (events, vectors, period, later events, later vectors)."""
    events, vectors = draw(histories())
    start, end = draw(PERIODS)
    events = [e for e in events if e["time"] < end]
    vectors = [v for v in vectors if v[1] < end]
    one = {
        "member_id": st.integers(0, 3),
        "job_id": st.integers(0, 7),
        "action": st.sampled_from(POSITIVE),
        # Mostly on the day on which the period ends.
        "time": st.one_of(MOMENTS, st.integers(0, 3)).map(lambda t: end + t % DAY),
    }
    # One event on a known item that is there in both cases, outside of everything.
    outside = event(9, 0, "APPLY", -100 * DAY)
    if events and "event_id" in events[0]:
        one["event_id"] = st.integers(0, 2)
        outside["event_id"] = 0
    later = draw(st.lists(st.fixed_dictionaries(one), min_size=1, max_size=12))
    stamps = draw(st.lists(st.tuples(st.integers(0, 9), one["time"]), max_size=4, unique=True))
    events.append(outside)
    return events, vectors, (start, end), later, [(j, t, [-1.0, float(t)]) for j, t in stamps]


@settings(max_examples=100, deadline=None)
@given(with_a_later_part(), WINDOWS, st.integers(0, 99))
def test_nothing_after_a_period_changes_its_examples_or_negatives(case, windows, seed):
    events, vectors, of, later_events, later_vectors = case

    def made(events, vectors):
        history, generator = history_of(events, vectors, SPEC), random(seed)
        some = Windows(per_member=2, **windows)
        real = hold_out(history, period(*of), windows=some, random=generator)
        drawn = draw_negatives(real, history, period(*of), random=generator)
        return [held_out_dicts(part, history, LABELS) for part in (real, drawn)]

    expected = made(events, vectors)
    assert made(events + later_events, vectors) == expected
    assert made(events + later_events, vectors + later_vectors) == expected


@settings(max_examples=75, deadline=None)
@given(with_a_later_part(), WINDOWS, st.booleans(), st.integers(0, 99))
def test_nothing_after_a_period_changes_its_future_positives(case, windows, of_sessions, seed):
    events, vectors, of, later_events, _ = case
    options = {"windows": Windows(per_member=3, **windows), "targets": 3, "day_negatives": 3}
    if of_sessions:
        objective = NextSession(session_gap_minutes=60 * 7, **options)
    else:
        objective = FuturePositives(horizon_days=2.0, **options)

    def made(events):
        history = history_of(events, vectors, SPEC)
        arrays = objective.examples(history, period(*of), random(seed))
        return {name: values.tolist() for name, values in arrays.items()}

    assert made(events + later_events) == made(events)
