"""What an evaluation writes is what its readers read."""

import pyarrow as pa
import pytest

from activity_embeddings.training.evaluation.result import (
    MEMBER_COLUMNS,
    MEMBERS,
    REPORT,
    read_members,
    read_result,
    write_result,
)
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.transformations.errors import InvalidInput
from support.evaluation_results import sample_result

TABLE = pa.table(
    {
        "task": ["day"] * 3,
        "arm": ["nothing", "decay", "cnn"],
        "seed": [0, 0, 0],
        "member_id": ["m", "m", "m"],
        "queries": [1, 1, 1],
        FIGURE: [0.1, 0.2, 0.3],
    }
)


def test_it_is_read_as_it_was_written(tmp_path):
    result = sample_result()
    write_result(result, TABLE, tmp_path)
    assert read_result(tmp_path) == result
    assert {file.name for file in tmp_path.iterdir()} == {REPORT, MEMBERS}
    members = read_members(tmp_path, ["decay", "cnn"])
    assert members.column_names == list(MEMBER_COLUMNS)
    assert members["arm"].to_pylist() == ["decay", "cnn"]


def test_a_figure_that_is_no_number_is_never_written(tmp_path):
    result = sample_result()
    result["seconds"] = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_result(result, TABLE, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2, "arms": []}', '{"schema": 1}'])
def test_a_report_of_another_kind_is_refused(text, tmp_path):
    (tmp_path / REPORT).write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"report\.json: expected a report .*Received: "):
        read_result(tmp_path)
