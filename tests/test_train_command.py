"""From an applied feature repo to a new published model, by the commands that a user types."""

import json
import re
import shutil
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from activity_embeddings.training.commands import cli
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.train import RESULT, RUN
from activity_embeddings.training.from_repo import TrainingSource
from activity_embeddings.training.item_encoder.data import EncoderData
from activity_embeddings.training.new_repo.create import create_repo
from activity_embeddings.transformations.contract.activity_model import read_manifest
from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec
from support import processes
from support.domains import SHOP_WITH_POSTINGS, add_courses, of_shop
from support.feast_repo import (
    SAMPLE,
    Repo,
    at,
    events_table,
    make_encoder_repo,
    small_data,
    small_repo,
    us,
)
from support.item_encoders import package_encoder, postings_table, small_postings
from support.training_data import without_graphs

pytestmark = pytest.mark.slow

PERIODS = ["--from", "2024-02-20", "--validate-from", "2024-03-20", "--until", "2024-03-30"]
QUICK = ["--epochs", "1", "--batch-size", "64"]
SMALL_CNN = ["--set", "filters=4", "--set", "convolutions=1"]


@pytest.fixture(scope="module")
def once_applied(tmp_path_factory, models):
    repo = small_repo(tmp_path_factory.mktemp("applied") / "repo", models)
    repo.run("apply")
    repo.keep()
    return repo


@pytest.fixture
def applied(once_applied):
    return once_applied.put_back()


def run(repo, *arguments):
    return CliRunner().invoke(cli, ["-C", str(repo.path), *map(str, arguments)])


def run_ok(repo, *arguments):
    result = run(repo, *arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def test_a_model_is_trained_packaged_applied_and_published(applied, tmp_path):
    """One line in ACTIVITY_MODELS is all that is edited."""
    folder = tmp_path / "run"
    options = [*PERIODS, *QUICK, *SMALL_CNN, "--refit", "--ema-momentum", "0.9"]
    output = run_ok(applied, "train", "cnn", *options, "--run", folder)
    assert "validation NDCG@10" in output and "popularity" in output
    assert (folder / RESULT).is_file()

    output = run_ok(applied, "package", folder, "--name", "fresh", "--version", "7")
    assert "fresh version 7" in output
    manifest = read_manifest(applied.path / "models" / "fresh")
    assert manifest["training"]["period"]["end"] == "2024-03-20T00:00:00+00:00"
    assert manifest["training"]["refit"]
    assert manifest["parameters"]["filters"] == 4
    assert manifest["parameters"]["fit"]["ema_momentum"] == 0.9
    line = '    ActivityModel(MODELS / "cnn"),\n'
    applied.edit("activity_models.py", line, line + line.replace("cnn", "fresh"))
    applied.publish(at(2), at(4))
    service = ["job_activity_embedding_fresh:activity_embedding"]
    members = [{"member_id": member} for member in range(1, 11)]
    answer = applied.store.get_online_features(service, members).to_dict()
    vectors = [v for v in answer["activity_embedding"] if v is not None]
    assert len(vectors) > 5 and np.isfinite(vectors).all()


def test_the_proxy_prints_its_label_balance(applied, tmp_path):
    output = run_ok(
        applied, "train", "cnn", *PERIODS, *QUICK, *SMALL_CNN, "--run", tmp_path / "run",
        "--objective", "proxy", "--objective-set", 'windows={"prefixes": true}',
        "--package", "proxied",
    )  # fmt: skip
    manifest = read_manifest(applied.path / "models" / "proxied")
    assert (manifest["name"], manifest["version"]) == ("proxied", "1")
    assert manifest["training"]["objective"]["objective"] == "proxy"
    before, after = (line for line in output.splitlines() if line.startswith(("before", "after")))
    assert "DISMISS" in before and "RAND_NEG" not in before
    assert "RAND_NEG_FOR_APPLY" in after and "RAND_NEG_FOR_SAVE" in after
    identity = json.loads((tmp_path / "run" / RUN).read_text())
    assert identity["objective"]["windows"]["prefixes"] is True


def test_training_again_keeps_the_model_and_another_needs_a_new_version(applied, tmp_path):
    options = ["cnn", *PERIODS, *QUICK, *SMALL_CNN, "--package", "fresh"]
    model = applied.path / "models" / "fresh"
    output = run_ok(applied, "train", *options, "--run", tmp_path / "run")
    fingerprint = read_manifest(model)["fingerprint"]
    again = run_ok(applied, "train", *options, "--run", tmp_path / "run")
    assert "nothing is trained" not in output
    assert again.startswith(f"{tmp_path / 'run'}: the run was complete, nothing is trained\n")
    # Its rivals in the same order, too.
    table = output[output.index("validation NDCG@10") : output.index("fresh version")]
    assert table.rstrip() in again and table.index("popularity") < table.index("decay_0.9")
    assert read_manifest(model)["fingerprint"] == fingerprint

    other = [*options, "--run", tmp_path / "other", "--seed", "1"]
    result = run(applied, "train", *other)
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert "expected a new version, since version 1 at" in line and "with --version" in line
    result = run(applied, "package", tmp_path / "other", "--name", "geometric_decay")
    assert result.exit_code == 1
    assert "model 'geometric_decay': expected a new version" in result.output
    assert read_manifest(model)["fingerprint"] == fingerprint

    run_ok(applied, "train", *other, "--version", "2")
    assert read_manifest(model)["version"] == "2"


@pytest.mark.parametrize(
    "options",
    [
        ["--epochs", "3"],
        ["--batch-size", "8", "--patience", "2"],
        ["--ema-momentum", "0.5", "--learning-rate", "1"],
        ["--refit"],
        ["--objective", "proxy"],
        ["--objective-set", "other_weight=1"],
    ],
    ids=" ".join,
)
def test_a_formula_model_takes_no_options_of_fitting(applied, tmp_path, options):
    where = tmp_path / "run"
    result = run(applied, "train", "interleaved_decay", *PERIODS, *options, "--run", where)
    assert result.exit_code == 1
    named = ", ".join(option for option in options if option.startswith("--"))
    assert result.output == (
        "Error: model 'interleaved_decay': expected no options of fitting, since it is a formula "
        f"that is measured only. Received: {named}\n"
    )
    assert not where.exists()


def test_a_formula_model_is_measured(applied, tmp_path):
    output = run_ok(
        applied, "train", "interleaved_decay", *PERIODS, "--set", "r=0.8", "--run", tmp_path / "run"
    )
    assert "validation NDCG@10" in output


def test_vectors_of_an_encoder_are_made_from_the_postings(models, data_of_encoder):
    """Nothing need have been materialized to train on them."""
    repo, encoder = data_of_encoder
    source = TrainingSource(repo.store)
    history = source.history(Period(at(-10), at(30)))
    assert source.vector_spec == encoder.vector_spec
    assert len(history.vectors.item_ids) > 20
    assert not (repo.data / "snapshots").exists()
    last = at(-10) - source.spec.window
    assert (history.events.time >= int(last.timestamp() * 1e6)).all()
    assert (history.events.time < int(at(30).timestamp() * 1e6)).all()

    for until in (at(30).isoformat(), at(30).timestamp(), pd.Timestamp(at(30))):
        assert (source.whole_history(until).events.time < at(30).timestamp() * 1e6).all()
        assert source.postings(["title"], until).equals(source.postings(["title"], at(30)))
    for read in (source.whole_history, lambda until: source.postings(["title"], until)):
        with pytest.raises(InvalidInput, match=r"`until` should be a datetime.*Received: 'soon'"):
            read("soon")


@pytest.fixture
def data_of_encoder(tmp_path, models):

    repo = small_repo(tmp_path / "repo", models)
    repo.configure(SAMPLE)
    encoder = package_encoder(repo.path / "models" / "item_encoder")
    pq.write_table(postings_table(small_postings()), repo.data / "job_postings.parquet")
    # The packaged models are for users' own vectors: without any, the repo can be applied.
    repo.edit("activity_models.py", 'ActivityModel(MODELS / "cnn"),', "")
    repo.edit("activity_models.py", 'ActivityModel(MODELS / "unweighted_average"),', "")
    repo.edit("activity_models.py", 'ActivityModel(MODELS / "geometric_decay"),', "")
    (repo.path / "services.py").unlink()
    repo.run("apply")
    return repo, encoder


def test_a_search_writes_study_and_plot_and_goes_on(applied, tmp_path):
    folder = tmp_path / "study"
    options = [*PERIODS, *QUICK, "--folder", folder]
    with without_graphs():
        output = run_ok(applied, "tune", "cnn", *options, "--trials", 1)
    assert output.count("trial 0:") == 1 and "best: " in output
    picture = (folder / "search.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    with without_graphs():
        output = run_ok(applied, "tune", "cnn", *options, "--trials", 2)
    assert "trial 0:" in output and "trial 1:" in output
    assert (folder / "search.png").read_bytes() != picture
    refused = run(applied, "tune", "cnn", *options, "--trials", 3, "--objective", "proxy")
    assert refused.exit_code == 1
    assert "expected a study with `objective`" in refused.output


def test_the_rate_of_a_decay_is_searched_over_its_whole_grid(applied, tmp_path):
    from activity_embeddings.training.models.averages import DECAYS

    folder = tmp_path / "study"
    output = run_ok(
        applied, "tune", "interleaved_decay", *PERIODS, "--folder", folder, "--trials", 99
    )
    tried = [line for line in output.splitlines() if line.startswith("trial ")]
    assert len(tried) == len(DECAYS)
    for r in DECAYS:
        assert sum(f"{{'r': {r}}}" in line for line in tried) == 1


def test_models_are_listed():
    output = CliRunner().invoke(cli, ["models"]).output
    assert [line.split(":")[0] for line in output.splitlines()] == [
        "cnn",
        "geometric_decay",
        "gru",
        "interleaved_decay",
        "lstm",
        "session_decay",
        "several_rates_decay",
        "transformer",
        "unweighted_average",
    ]


def test_a_item_encoder_is_trained_from_files(tmp_path, repo):
    rows = 400
    random = np.random.default_rng(0)
    item = random.integers(1, 31, rows)
    times = np.sort(random.integers(us(at(-20)), us(at(20)), rows))
    events = pa.table(
        {
            "member_id": random.integers(0, 20, rows),
            "job_id": item,
            "action": random.choice(["APPLY", "DISMISS"], rows),
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(events, tmp_path / "events.parquet")
    pq.write_table(postings_table(small_postings()), tmp_path / "postings.parquet")
    options = [
        "--events", tmp_path / "events.parquet",
        "--postings", tmp_path / "postings.parquet", "--category", "genres",
        "--category", "year", "--until", "2024-03-21", "--dimension", 8, "--epochs", 1,
        "--run", tmp_path / "run", "--network", "cnn", "--network-set", "filters=4",
        "--network-out", tmp_path / "together", "--objective-set", "other_weight=0.5",
        "--ema-momentum", 0.9, "--learning-rate", 0.003,
    ]  # fmt: skip
    with without_graphs():
        output = run_ok(repo, "train-item-encoder", *options)
    assert "content_and_behaviour version 1" in output
    assert "valid from 2024-03-21 00:00 UTC" in output
    encoder = describe_item_encoder(repo.path / "models" / "item_encoder")
    assert encoder.manifest["parameters"]["other_weight"] == 0.5
    fit = encoder.manifest["parameters"]["fit"]
    assert (fit["ema_momentum"], fit["learning_rate"]) == (0.9, 0.003)
    # The network that was trained with the vectors reads them, and no others.
    together = read_manifest(tmp_path / "together")
    assert (together["name"], together["version"]) == ("together", "1")
    assert together["vector_spec"] == encoder.vector_spec.to_dict()
    assert together["parameters"]["network"]["filters"] == 4
    assert together["litert"]["compared"]["real"] > 0
    # Trained and packaged again, both keep their fingerprints.
    run_ok(repo, "train-item-encoder", *options)
    again = describe_item_encoder(repo.path / "models" / "item_encoder")
    assert again.fingerprint == encoder.fingerprint
    assert read_manifest(tmp_path / "together")["fingerprint"] == together["fingerprint"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--network-out", "x"], "--network-set and --network-out expect --network"),
        (
            ["--network", "cnn", "--network-out", "x/My-CNN"],
            "--network-out should end with .*My-CNN",
        ),
        (["--network", "geometric_decay"], "--network should be a learned model"),
        (["--objective-set", "warp=1"], "expected settings among .*other_weight.* warp"),
    ],
)
def test_a_network_that_cannot_be_trained_with_the_vectors_is_refused(options, says, tmp_path):
    command = ["-C", str(tmp_path), "train-item-encoder", "--until", "2024-03-21", *options]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 1
    assert re.search(f"Error: .*{says}", result.output)


@pytest.mark.parametrize("given", ["nothing", "files"])
def test_the_encoder_is_trained_on_what_the_feature_repo_defines(given, tmp_path, models):
    """Actions, names of columns and sources of its own, before it can be applied."""
    random = np.random.default_rng(0)
    times = np.sort(random.integers(us(at(-20)), us(at(20)), 400))
    events = pa.table(
        {
            "user": random.integers(0, 20, 400),
            "posting": random.integers(1, 31, 400),
            "what": random.choice(["apply", "hide"], 400),
            "when": pa.array(times, pa.timestamp("us", "UTC")),
            # Of another meaning than the one that this package gives the name.
            "event_timestamp": ["some day"] * 400,
        }
    )
    postings = postings_table(small_postings()).rename_columns({"job_id": "posting"})
    repo = make_encoder_repo(tmp_path / "repo", models, events, postings)
    (repo.events / "history.parquet").rename(repo.events / "000000_0")
    repo.configure(
        replace(SAMPLE, spec=ActivitySpec(actions=("apply", "hide"), positive_actions=("apply",)))
    )
    repo.map_columns()
    repo.edit(
        "item_vectors.py",
        'timestamp_field="event_timestamp",',
        'timestamp_field="event_timestamp",\n    field_mapping={"posting": "job_id"},',
    )
    assert repo.feast("apply").code == 1
    files = [
        "--events", repo.events,
        "--postings", repo.data / "job_postings.parquet",
    ]  # fmt: skip
    before = set(sys.modules), list(sys.path)
    with without_graphs():
        output = run_ok(
            repo, "train-item-encoder", *(files if given == "files" else []),
            "--category", "genres", "--until", "2024-03-21", "--dimension", 8, "--epochs", 1,
            "--run", tmp_path / "run",
        )  # fmt: skip
    assert "valid from 2024-03-21 00:00 UTC" in output
    assert not {"sources", "entities", "item_vectors"} & (set(sys.modules) - before[0])
    assert sys.path == before[1]
    manifest = json.loads(
        (repo.path / "models" / "item_encoder" / "assets.extra" / "item_encoder.json").read_text()
    )
    assert manifest["training"]["end"] == "2024-03-21T00:00:00+00:00"
    assert manifest["training"]["examples"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A repo of two domains, not applied yet, with join keys of its own and ids of text."""
    repo = Repo(tmp_path_factory.mktemp("shop") / "repo")
    create_repo(repo.path, SHOP_WITH_POSTINGS)
    repo.write_events(of_shop(events_table(small_data()[0]), "ts"))
    postings = of_shop(postings_table(small_postings()), "since")
    pq.write_table(postings, repo.data / "product_postings.parquet")
    add_courses(repo, [("u003", "c1", "ENROL", at(-2))], "user_id")
    return repo


def test_the_encoder_of_one_domain_is_trained_on_text_ids_and_published(shop, tmp_path):
    """On the events of a file, and the postings of the feature repo."""
    repo = Repo(tmp_path / "repo")
    shutil.copytree(shop.path, repo.path)
    with without_graphs():
        output = run_ok(
            repo, "train-item-encoder", "--item", "product", "--events", repo.events,
            "--category", "genres", "--until", "2024-03-21", "--dimension", 16, "--epochs", 1,
            "--name", "words", "--version", "2", "--run", tmp_path / "run",
        )  # fmt: skip
    assert "words version 2" in output and "genres, sku, title -> embedding[16]" in output
    # The averages are made for the encoder that was there before.
    lines = repo.path / "activity_models.py"
    lines.write_text(re.sub(r"    ActivityModel\(.*\),\n", "", lines.read_text()))
    (repo.path / "services.py").unlink()
    repo.publish(at(20), at(25), "--views", "product_embedding")
    rows = [{"sku": "s001"}, {"sku": "s030"}, {"sku": "s999"}]
    got = repo.store.get_online_features(["product_embedding:embedding"], rows).to_dict()
    known, other, unknown = got["embedding"]
    assert np.isfinite([known, other]).all() and known != other and len(known) == 16
    assert unknown is None


def test_the_encoder_of_another_domain_is_never_written_over(shop, tmp_path):
    repo = Repo(tmp_path / "repo")
    shutil.copytree(shop.path, repo.path)
    with pytest.raises(InvalidInput, match=r"expected --out, .* for course_.* of product_"):
        EncoderData.of(repo.path, "course").folder()
    # Its own is found where the definitions say.
    (repo.path / "models" / "item_encoder").rename(repo.path / "models" / "products")
    repo.edit("item_vectors.py", '"item_encoder"', '"products"')
    assert EncoderData.of(repo.path, "product").folder() == repo.path / "models" / "products"


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ([], "expected the item of one of its domains: course, product. Received: no item"),
        (
            ["--item", "film"],
            "expected one view of 'film' with the tag activity_role 'events' among its "
            "definitions. Received: course_activity, product_activity",
        ),
        (
            ["--item", "course"],
            "expected one view of 'course' with the tag activity_role 'item_postings' among its "
            "definitions. Received: product_posting",
        ),
    ],
)
def test_an_encoder_of_no_domain_is_refused_with_the_items_there_are(shop, item, says, tmp_path):
    options = ["--until", "2024-03-21", "--run", tmp_path / "run"]
    refused = run(shop, "train-item-encoder", *item, *options)
    assert refused.exit_code == 1
    (line,) = [line for line in refused.output.splitlines() if line.startswith("Error: ")]
    assert line.endswith(says)


def test_without_a_feature_repo_the_encoder_needs_files(tmp_path):
    result = CliRunner().invoke(
        cli, ["-C", str(tmp_path), "train-item-encoder", "--until", "2024-03-21"]
    )
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert "expected a feature repo, whose source is read, or --events" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "mlp", *PERIODS], "expected the name of a model, one of cnn, .* 'mlp'"),
        (["train", "cnn", *PERIODS, "--set", "width=3"], "settings among .*filters.* width"),
        (["train", "cnn", *PERIODS, "--set", "filters"], "expected name=value. Received: 'filt"),
        (["train", "cnn", *PERIODS, "--objective", "x"], "one of future_positives, next_.*'x'"),
        (["train", "cnn", *PERIODS[:4], "--until", "soon"], "an ISO date or time .*'soon'"),
        (
            ["train", "cnn", *PERIODS[:4], "--until", "2024-03-01"],
            "--from, --validate-from and --until should follow each other. Received: 2024-02-20",
        ),
        (
            ["tune", "cnn", "--from", "2024-03-20", "--validate-from", "2024-03-20", *PERIODS[4:]],
            "--from, --validate-from and --until should follow each other. Received: 2024-03-20",
        ),
        (["train", "cnn", *PERIODS, "--epochs", "0"], "`epochs` should be 1 or more. Received: "),
        (["tune", "cnn", *PERIODS, "--ema-momentum", "1"], "between 0 and 1. Received: 1.0"),
        (
            ["train", "cnn", "--from", "1999-01-01", "--validate-from", "1999-02-01", "--until",
             "1999-03-01"],
            "expected events from .* 1999-01-01 .* to before 1999-03-01 .* Received: none",
        ),
        (["train", "cnn", *PERIODS, "--version", "2"], "--version expects --package NAME"),
        (["tune", "geometric_decay", *PERIODS, "--epochs", "2"], "no options of .*: --epochs"),
        (["train", "cnn", *PERIODS, "--package", "My"], "`name` .* from --package. Received: 'My'"),
        (["tune", "cnn", *PERIODS, "--trials", "0"], "`trials` should be 1 or more. Received: 0"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(applied, tmp_path, arguments, message):
    import re

    before = applied.stores()
    where = tmp_path / "out"
    option = "--run" if arguments[0] == "train" else "--folder"
    result = run(applied, *arguments, option, where)
    assert result.exit_code in (1, 2)
    (line,) = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert re.search(message, line), line
    assert not (where / RESULT).exists()
    assert applied.stores() == before


def test_a_repo_that_was_not_applied_is_one_clear_error(repo, tmp_path):
    result = run(repo, "train", "cnn", *PERIODS, "--run", tmp_path / "run")
    assert result.exit_code == 1
    assert "expected a registry with a view of sequences" in result.output
    assert "Run `feast apply`" in result.output


def test_a_run_that_has_not_ended_is_not_packaged(applied, tmp_path):
    before = sorted((applied.path / "models").rglob("*"))
    result = run(applied, "package", tmp_path, "--name", "fresh")
    assert result.exit_code == 1
    assert "expected the folder of a complete run" in result.output
    assert sorted((applied.path / "models").rglob("*")) == before


@pytest.mark.process
def test_killed_and_started_again_the_command_ends_with_the_same_weights(applied, tmp_path):
    """SIGKILL at a moment that nobody chose; what is there then is taken up."""
    options = [*PERIODS, "--epochs", "3", "--batch-size", "16", *SMALL_CNN]
    command = ["-C", applied.path, "train", "cnn", *options, "--run", tmp_path / "killed"]
    process = processes.start(processes.COMMAND, *command)
    while not (tmp_path / "killed" / "checkpoint.npz").exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / RESULT).exists()
    for name in ("killed", "whole"):
        run_ok(applied, "train", "cnn", *options, "--run", tmp_path / name)
    with (
        np.load(tmp_path / "killed" / "best.npz") as killed,
        np.load(tmp_path / "whole" / "best.npz") as whole,
    ):
        assert killed.files == whole.files
        for name in whole.files:
            np.testing.assert_array_equal(killed[name], whole[name])
