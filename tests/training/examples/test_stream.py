"""Batches of an epoch are its examples, whatever the group, and one group at a time is alive."""

import tracemalloc
import weakref

import numpy as np
import pytest

from activity_embeddings.training.examples.held_out import Windows
from activity_embeddings.training.examples.stream import ExampleStream
from activity_embeddings.training.objectives import FuturePositives, Proxy
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec
from support.reference import US_PER_DAY
from support.training_cases import ACTIONS, event, history_of, period

DAY = US_PER_DAY
OF = period(10 * DAY, 20 * DAY)
EVERYTHING = Windows(minimum=1, prefixes=True, per_member=None)


@pytest.fixture(scope="module")
def history():
    """40 members over 30 days, some without activity in the period."""
    random = np.random.default_rng(0)
    members = random.integers(0, 40, 600)
    days = np.where(members % 5 == 0, 25, random.integers(0, 30, 600))
    items, times = random.integers(0, 12, 600), days * DAY + random.integers(0, DAY, 600)
    columns = (members.tolist(), items.tolist(), ACTIONS * 200, times.tolist())
    events = [event(*row) for row in zip(*columns, strict=True)]
    vectors = [(j, day * DAY, [float(j), float(day)]) for j in range(12) for day in (0, 5 + j)]
    return history_of(events, vectors, ActivitySpec(length=6))


def joined(batches):
    batches = list(batches)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def rows_of(arrays):
    """Return the rows as a sorted list of bytes: equal for equal examples in any order."""
    names = sorted(arrays)
    count = len(arrays[names[0]])
    return sorted(b"".join(arrays[n][i].tobytes() for n in names) for i in range(count))


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
        assert one[name].dtype == other[name].dtype


def stream_of(history, objective, **options):
    return ExampleStream(
        history, OF, lambda part, random: objective.examples(part, OF, random), **options
    )


NOT_RANDOM = FuturePositives(windows=EVERYTHING)


@pytest.mark.parametrize("members_at_once", [1, 7, 32, 8192])
def test_batches_in_order_are_the_examples_made_directly(history, members_at_once):
    direct = NOT_RANDOM.examples(history, OF, np.random.default_rng(0))
    stream = stream_of(
        history, NOT_RANDOM, shuffle=False, batch_size=16, members_at_once=members_at_once
    )
    count = len(direct["weight"])
    assert count > 100
    batches = list(stream.batches())
    # The last batch holds what remains.
    assert [len(b["weight"]) for b in batches] == [16] * (count // 16) + [count % 16]
    assert count % 16
    assert_equal(joined(batches), direct)


@pytest.mark.parametrize("members_at_once", [1, 7, 8192])
def test_shuffled_batches_are_the_same_examples_in_another_order(history, members_at_once):
    direct = NOT_RANDOM.examples(history, OF, np.random.default_rng(0))
    stream = stream_of(history, NOT_RANDOM, batch_size=16, members_at_once=members_at_once)
    epochs = [joined(stream.batches(epoch)) for epoch in (0, 1)]
    for arrays in epochs:
        assert rows_of(arrays) == rows_of(direct)
        assert not np.array_equal(arrays["ages"], direct["ages"])
    assert not np.array_equal(epochs[0]["ages"], epochs[1]["ages"])


def test_an_epoch_repeats_with_its_seed_and_differs_from_others(history):
    proxy = Proxy(windows=Windows(minimum=1, prefixes=True, per_member=2))

    def bytes_of(seed, epoch):
        stream = proxy.stream(history, OF, seed=seed, batch_size=32)
        return [batch[n].tobytes() for batch in stream.batches(epoch) for n in sorted(batch)]

    first = bytes_of(1, 0)
    assert bytes_of(1, 0) == first
    for seed, epoch in ((1, 1), (1, 2), (2, 0)):
        assert bytes_of(seed, epoch) != first


def test_negatives_and_limits_are_drawn_anew_in_every_epoch(history):
    proxy = Proxy(windows=Windows(minimum=1, prefixes=True, per_member=2))
    stream = proxy.stream(history, OF)
    epochs = [rows_of(joined(stream.batches(epoch))) for epoch in (0, 1)]
    assert epochs[0] != epochs[1]


def test_in_order_every_epoch_is_the_first(history):
    stream = Proxy(windows=EVERYTHING).stream(history, OF, shuffle=False)
    assert_equal(joined(stream.batches(0)), joined(stream.batches(5)))


def test_the_order_of_an_epoch_is_over_members_and_within_groups(history):
    stream = stream_of(history, NOT_RANDOM, members_at_once=7)
    seen = []

    def examples(part, random):
        seen.append(part.events.member_ids.to_pylist())
        return NOT_RANDOM.examples(part, OF, random)

    stream = ExampleStream(history, OF, examples, members_at_once=7)
    for epoch in (0, 1):
        list(stream.groups(epoch))
    half = len(seen) // 2
    groups = [seen[:half], seen[half:]]
    assert groups[0] != groups[1]
    events = history.events
    inside = (events.time >= OF.start_us) & (events.time < OF.end_us)
    expected = sorted(set(events.member_ids.to_numpy()[events.member[inside]].tolist()))
    # Members without activity in the period are passed over.
    assert len(expected) < len(events.member_ids)
    for one in groups:
        assert [len(group) for group in one[:-1]] == [7] * (len(one) - 1)
        assert sorted(member for group in one for member in group) == expected


def test_what_is_drawn_once_a_batch_is_added_to_each_batch_and_repeats(history):
    objective = FuturePositives(windows=EVERYTHING, uniform_negatives=3, popular_negatives=2)
    stream = objective.stream(history, OF, batch_size=16)
    batches = list(stream.batches(0))
    drawn = [batch["negative_rows"].tolist() for batch in batches]
    assert {len(rows) for rows in drawn} == {5}
    assert len({tuple(rows) for rows in drawn}) > len(drawn) // 2
    assert [batch["negative_rows"].tolist() for batch in stream.batches(0)] == drawn


def test_the_first_batch_is_that_of_its_epoch(history):
    stream = stream_of(history, NOT_RANDOM, batch_size=16, members_at_once=7)
    for epoch in (0, 3, 4):
        assert_equal(stream.first(epoch), next(stream.batches(epoch)))


@pytest.mark.parametrize("shuffle", [True, False])
def test_no_examples_are_one_clear_error(history, shuffle):
    objective = Proxy(windows=Windows(minimum=6))
    for of in (period(100 * DAY, 101 * DAY), period(0, 1)):
        stream = objective.stream(history, of, shuffle=shuffle)
        assert list(stream.batches()) == []
        message = rf"expected members with enough activity from {of.start}.*Received: no example "
        with pytest.raises(InvalidInput, match=message.replace("+", r"\+") + "of 40 members"):
            stream.first()


def test_groups_without_examples_are_passed_over(history):
    calls = []

    def examples(part, random):
        calls.append(part)
        arrays = NOT_RANDOM.examples(part, OF, random)
        return {n: v[:0] for n, v in arrays.items()} if len(calls) % 2 else arrays

    stream = ExampleStream(history, OF, examples, shuffle=False, batch_size=16, members_at_once=1)
    batches = list(stream.batches())
    assert {len(batch["weight"]) for batch in batches[:-1]} == {16}
    assert 0 < len(batches[-1]["weight"]) <= 16


@pytest.mark.parametrize("shuffle", [True, False])
def test_no_group_is_alive_while_the_next_is_made(history, shuffle):
    made, alive = [], []

    def examples(part, random):
        alive.append(sum(reference() is not None for reference in made))
        # More rows than fit a batch, so that batches and leftovers come from each group.
        arrays = {"rows": np.arange(100)}
        made.append(weakref.ref(arrays["rows"]))
        return arrays

    stream = ExampleStream(history, OF, examples, shuffle=shuffle, batch_size=32, members_at_once=1)
    for batch in stream.batches():
        del batch
    assert len(alive) > 20
    assert set(alive) == {0}


@pytest.mark.parametrize("shuffle", [True, False])
def test_memory_does_not_grow_with_the_number_of_groups(history, shuffle):
    def peak(members_at_once, rows):
        def examples(part, random):
            return {"rows": np.zeros((rows, 100))}

        stream = ExampleStream(
            history, OF, examples, shuffle=shuffle, members_at_once=members_at_once
        )
        tracemalloc.start()
        count = 0
        for batch in stream.batches():
            count += len(batch["rows"])
            del batch
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return count, found

    few, peak_of_few = peak(16, 2000)
    many, peak_of_many = peak(1, 2000)
    assert many > 10 * few
    assert peak_of_many < 1.2 * peak_of_few
    # One group and the copy that orders it, or puts what is left of the last before it.
    assert peak_of_many < 2.5 * 2000 * 100 * 8
