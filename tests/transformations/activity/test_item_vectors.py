"""Item vectors as of a time, by hand."""

import numpy as np
import pyarrow as pa

from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.spec import ItemVectorSpec
from activity_embeddings.transformations.times import NEVER

VECTOR_SPEC = ItemVectorSpec("test", "1", 2)


def vectors(rows, ids=None, list_type=None):
    return ItemVectors.from_arrow(
        pa.table(
            {
                "job_id": pa.array([item for item, _, _ in rows], ids or pa.int64()),
                "embedding": pa.array([v for _, _, v in rows], list_type or pa.list_(pa.float32())),
                "event_timestamp": pa.array([t for _, t, _ in rows], pa.timestamp("us", "UTC")),
            }
        ),
        VECTOR_SPEC,
    )


def rows_as_of(vector_spec, items, moments):
    """Return the vectors of items (rows of queries) as of times, None for the zero vector."""
    ids = pa.array(sorted({j for row in items for j in row}), pa.int64())
    codes = np.array([[ids.to_pylist().index(j) for j in row] for row in items], dtype=np.int32)
    rows = vector_spec.rows(ids, codes, np.array(moments))
    return [
        [None if r == vector_spec.pad_row else vector_spec.matrix[r].tolist() for r in row]
        for row in rows
    ]


def test_a_item_has_the_newest_vector_dated_at_or_before_the_time():
    vector_spec = vectors([(7, 10, [1, 0]), (7, 20, [2, 0]), (3, 15, [3, 0])])
    got = rows_as_of(vector_spec, [[7, 3]] * 6, [9, 10, 14, 15, 19, 20])
    assert got == [
        [None, None],
        [[1, 0], None],
        [[1, 0], None],
        [[1, 0], [3, 0]],
        [[1, 0], [3, 0]],
        [[2, 0], [3, 0]],
    ]


def test_one_vector_a_item_takes_the_short_way_to_the_same_answer():
    vector_spec = vectors([(7, 10, [1, 0]), (3, 15, [3, 0])])
    assert rows_as_of(vector_spec, [[7, 3, 99]] * 3, [9, 10, 15]) == [
        [None, None, None],
        [[1, 0], None, None],
        [[1, 0], [3, 0], None],
    ]


def test_pad_and_unknown_items_are_the_zero_row():
    vector_spec = vectors([(7, 10, [1, 0])])
    rows = vector_spec.rows(pa.array([7]), np.array([[-1, 0]], dtype=np.int32), np.array([99]))
    assert vector_spec.matrix[rows].tolist() == [[[0, 0], [1, 0]]]


def test_known_at_is_the_time_of_the_first_vector():
    vector_spec = vectors([(7, 20, [1, 0]), (7, 10, [1, 0])])
    assert vector_spec.known_at(pa.array([7, 8])).tolist() == [10, NEVER]


def test_without_any_vector_every_item_is_unknown():
    vector_spec = vectors([])
    assert vector_spec.known_at(pa.array([7])).tolist() == [NEVER]
    assert vector_spec.rows(pa.array([7]), np.array([[0]]), np.array([5])).tolist() == [
        [vector_spec.pad_row]
    ]


def test_fixed_size_lists_doubles_and_large_lists_are_vectors_too():
    rows = [(1, 5, [1, 2]), (2, 5, [3, 4])]
    for kind in (
        pa.list_(pa.float32(), 2),
        pa.list_(pa.float64()),
        pa.large_list(pa.float32()),
    ):
        assert vectors(rows, list_type=kind).matrix.tolist() == [[1, 2], [3, 4], [0, 0]]


def test_vectors_in_several_chunks_are_those_of_one():
    whole = pa.table(
        {
            "job_id": [3, 1, 2, 5],
            "embedding": pa.array([[3, 0], [1, 0], [2, 0], [5, 0]], pa.list_(pa.float32())),
            "event_timestamp": pa.array([0] * 4, pa.timestamp("us", "UTC")),
        }
    )
    parts = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 0), whole.slice(1, 3)])
    assert parts["embedding"].num_chunks > 1
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2)):
        table = parts.set_column(1, "embedding", parts["embedding"].cast(kind))
        vector_spec = ItemVectors.from_arrow(table, VECTOR_SPEC)
        assert vector_spec.matrix.tolist() == [[1, 0], [2, 0], [3, 0], [5, 0], [0, 0]]
