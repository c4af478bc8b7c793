"""What a run did, in words."""

from activity_embeddings.transformations.batch.report import MaterializeReport
from support.feast_repo import at, us


def test_a_report_reads_right_for_one_of_everything():
    report = MaterializeReport(
        events=1, duplicates=1, positions=9_999, unknown=1, snapshots=[us(at(0.5)) + 15_500_000],
        changed=1, members=1, silent=0, rows=1, views=1, pushed_rows=1, pushed_values=1,
    )  # fmt: skip
    assert str(report).splitlines()[:4] == [
        "activity embeddings: 1 snapshot as of 2024-03-01 12:00:15.5 UTC, 1 file new or changed",
        "  events   1 read, 1 duplicate left out; under 0.1 % of the activity in the windows is on "
        "unknown items",
        "  members  1 in the last snapshot, 0 of them silent",
        "  rows     1 offline in 1 view; 1 online (1 value)",
    ]


def test_a_report_reads_right_for_many_and_for_none():
    many = MaterializeReport(
        positions=1, unknown=99_999, snapshots=[us(at(0)), us(at(1))], changed=1_234, views=4,
        duplicates=2_000,
    )  # fmt: skip
    text = str(many)
    assert "2 snapshots from 2024-03-01 00:00 to 2024-03-02 00:00 UTC, 1,234 files" in text
    assert "2,000 duplicates left out; over 99.9 % of the activity" in text
    none = str(MaterializeReport())
    assert none.startswith("activity embeddings: no snapshots, no files new or changed\n")
    assert "no duplicates left out; 0 % of the activity" in none
