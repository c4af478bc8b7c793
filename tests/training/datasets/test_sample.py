"""The data sets that come with the package: whole, licensed, and with definitions that fit them."""

import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from activity_embeddings.training.datasets.sample import (
    ENTREE,
    ESHOP,
    FILMS,
    JOBS,
    make_sample_repo,
)
from activity_embeddings.training.demo.__main__ import main
from activity_embeddings.training.repo_definitions import read_definitions
from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder
from activity_embeddings.transformations.definitions.tags import spec_of
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.names import Role
from activity_embeddings.transformations.times import to_us

PACKAGED = [ENTREE, ESHOP, FILMS]
ARROW = {"String": pa.string(), "Int64": pa.int32(), "Array(String)": pa.list_(pa.string())}


@pytest.fixture(params=PACKAGED, ids=lambda sample: sample.name)
def sample(request):
    return request.param


def test_a_packaged_data_set_is_whole_and_says_where_it_is_from(sample, tmp_path):
    sample.write(tmp_path)
    events, postings = sample.events(tmp_path), sample.postings(tmp_path)
    settings = sample.settings

    assert set(pc.unique(events["action"]).to_pylist()) == set(settings.spec.actions)
    assert events.column_names == ["member_id", "job_id", "action", "event_timestamp"]
    id_type = {"int": pa.int64(), "string": pa.string()}[settings.item_type]
    content = {column.name: ARROW[column.kind] for column in settings.items.content}
    assert dict(zip(postings.column_names, postings.schema.types, strict=True)) == {
        "job_id": id_type,
        **content,
        "event_timestamp": pa.timestamp("us", "UTC"),
    }
    assert events["job_id"].type == id_type
    assert pc.all(pc.is_in(events["job_id"], postings["job_id"].combine_chunks())).as_py()
    assert len(pc.unique(postings["job_id"])) == len(postings)
    times = events["event_timestamp"]
    assert times.equals(times.take(pc.sort_indices(times)))

    dates = [sample.encoder_until, sample.validate_from, sample.rank_from, sample.test_from]
    assert sorted(dates) == dates and dates[-1] < sample.until
    assert pc.min(times).as_py() < dates[0]
    assert (sample.until - pc.max(times).as_py()).days <= 0

    readme = " ".join((tmp_path / "README.md").read_text().split())
    assert "proxy domain" in readme and "Please cite" in readme
    assert f"| {len(events):,} |" in readme and f"| {len(postings):,} |" in readme
    (licence,) = tmp_path.glob("LICENSE.*")
    assert licence.name in readme or sample is FILMS
    assert "proxy domain" in sample.description


def test_counts_in_the_readme_of_the_sample_are_those_of_its_events(tmp_path):
    ENTREE.write(tmp_path)
    events = ENTREE.events(tmp_path)
    readme = " ".join((tmp_path / "README.md").read_text().split())
    counts = {row["values"]: row["counts"] for row in pc.value_counts(events["action"]).to_pylist()}
    said = "{:,}, {:,} and {:,}".format(*(counts[a] for a in ENTREE.settings.spec.actions))
    assert said in readme
    days: dict[int, set] = {}
    for row in events.select(["member_id", "event_timestamp"]).to_pylist():
        days.setdefault(row["member_id"], set()).add(row["event_timestamp"].date())
    again = sum(len(of_member) > 1 for of_member in days.values())
    assert f"Of {len(days):,} hosts {again:,} come back on another day" in readme


def test_the_packaged_item_encoder_was_trained_as_the_sample_says():
    with ENTREE.packaged() as data:
        encoder = describe_item_encoder(data.parent / "models" / "item_encoder")
    assert encoder.valid_from == to_us(ENTREE.encoder_until)
    assert encoder.manifest["training"]["end"] == ENTREE.encoder_until.isoformat()
    parameters = encoder.manifest["parameters"]
    assert ("network" in parameters) == ENTREE.encoder_with_network
    assert parameters["other_weight"] == ENTREE.other_weight


def test_a_feature_repo_of_a_data_set_has_its_types_and_actions(tmp_path):
    repo = tmp_path / "repo"
    make_sample_repo(repo, ESHOP)
    definitions = read_definitions(repo)
    events, postings = definitions.view(Role.EVENTS), definitions.view(Role.POSTINGS)
    assert spec_of(events).actions == ("SAVE",)
    assert [field.name for field in postings.features] == ["title", "features"]
    assert "STRING" in (repo / "entities.py").read_text()
    assert 'MODELS / "cnn"' in (repo / "activity_models.py").read_text()
    assert ESHOP.events(repo / "data").num_rows == 131_995

    (repo / "left").write_text("by an earlier run")
    make_sample_repo(repo, ENTREE)
    assert not (repo / "left").exists() and "INT64" in (repo / "entities.py").read_text()


@pytest.mark.slow
def test_a_market_has_the_members_that_are_asked_for(tmp_path):
    replace(JOBS, members=20).write(tmp_path)
    assert set(pq.read_table(tmp_path / "truth" / "members.parquet")["member_id"].to_pylist()) == {
        *range(1, 21)
    }
    assert len(JOBS.postings(tmp_path)) > 0


def test_members_are_asked_for_of_simulated_data_alone(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo", "--data", "films", "--members", "9"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--members is for simulated data. Received: --data films" in capsys.readouterr().err


def test_a_folder_of_others_is_not_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="Received: one with something else"):
        make_sample_repo(tmp_path, FILMS)
    assert [path.name for path in Path(tmp_path).iterdir()] == ["mine.txt"]
