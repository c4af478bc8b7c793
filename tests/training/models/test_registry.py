"""Architectures by name: our own, those of other packages, and those that cannot be had."""

import json
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

import activity_embeddings
from activity_embeddings.training.models import (
    CNN,
    InterleavedDecay,
    architecture,
    known_models,
    register,
    registry,
)
from activity_embeddings.transformations.errors import InvalidInput
from support import processes

pytestmark = pytest.mark.slow

OWN = [
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


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


def test_our_own_are_known_by_name():
    assert set(OWN) <= set(known_models())
    assert known_models() == sorted(known_models())
    assert architecture("cnn") is CNN
    assert architecture("interleaved_decay") is InterleavedDecay
    assert {name: architecture(name).name for name in OWN} == {name: name for name in OWN}


def test_a_decorator_makes_a_class_known():
    @register("wide_cnn")
    @dataclass(frozen=True, kw_only=True)
    class WideCNN(CNN):
        filters: int = 100

    assert architecture("wide_cnn") is WideCNN
    assert "wide_cnn" in known_models()
    assert (WideCNN.name, CNN.name) == ("wide_cnn", "cnn")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InvalidInput, match=r"one of cnn, .*unweighted_average. Received: 'rnn'"):
        architecture("rnn")


def test_a_name_that_is_taken_is_refused_with_both_classes():
    class Other(CNN):
        pass

    with pytest.raises(InvalidInput, match=r"model 'cnn'.*training\.models\.cnn\.CNN and .*Other"):
        register("cnn")(Other)
    assert architecture("cnn") is CNN


def test_a_class_may_be_defined_again_as_in_a_notebook():
    def define():
        @register("mine")
        class Mine(CNN):
            pass

        return Mine

    first, second = define(), define()
    assert first is not second
    assert architecture("mine") is second


@pytest.mark.parametrize("name", ["Not-A-Name", "", "1st", "a b"])
def test_a_name_that_cannot_name_a_view_is_refused(name):
    with pytest.raises(InvalidInput, match=r"`name` should be lower-case letters.*Received: "):
        register(name)


def test_only_architectures_can_be_registered():
    with pytest.raises(InvalidInput, match=r"model 'mine': expected a subclass of .*Received: .*7"):
        register("mine")(7)


def install(site: Path, package: str, source: str, **models: str) -> None:
    """Lay out an installed distribution: a module, and a dist-info with entry points."""
    (site / f"{package}.py").write_text(dedent(source))
    info = site / f"{package}-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.0\n")
    points = "".join(f"{name} = {value}\n" for name, value in models.items())
    (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINT_GROUP}]\n{points}")


DECORATED = """
    from dataclasses import dataclass
    from activity_embeddings.training.models import CNN, register

    @register("theirs")
    @dataclass(frozen=True, kw_only=True)
    class Theirs(CNN):
        filters: int = 5

    @dataclass(frozen=True, kw_only=True)
    class Plain(CNN):
        filters: int = 6

    class Taken(CNN):
        pass

    number = 7
"""

ASK = """
    import json, sys
    from activity_embeddings.training.models import architecture, known_models
    from activity_embeddings.transformations.errors import InvalidInput

    answers = {"known": known_models()}
    for name in sys.argv[1:]:
        try:
            cls = architecture(name)
            answers[name] = [cls.__qualname__, cls.name, cls().filters]
        except InvalidInput as error:
            answers[name] = str(error)
    print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What a process says in which other packages are installed, good ones and bad ones."""
    site = tmp_path_factory.mktemp("site")
    install(
        site,
        "their_models",
        DECORATED,
        theirs="their_models:Theirs",
        plain="their_models:Plain",
        renamed="their_models:Theirs",
        number="their_models:number",
        lstm="their_models:Taken",
    )
    install(site, "broken_models", "import a_module_that_is_not_there", broken="broken_models:X")
    install(site, "more_models", DECORATED.replace("theirs", "more"), plain="more_models:Plain")
    asked = ["theirs", "renamed", "number", "lstm", "broken", "plain", "cnn"]
    folders = [str(site), str(Path(activity_embeddings.__file__).parents[1])]
    code = f"import sys; sys.path[:0] = {folders!r}\n" + dedent(ASK)
    ran = processes.run(code, *asked)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.process
def test_models_of_other_packages_are_listed_whether_they_work_or_not(answers):
    theirs = {"theirs", "plain", "renamed", "number", "broken"}
    assert {*OWN, *theirs} <= set(answers["known"])
    assert answers["known"] == sorted(set(answers["known"]))


@pytest.mark.process
def test_an_entry_point_gives_its_class(answers):
    assert answers["theirs"] == ["Theirs", "theirs", 5]


@pytest.mark.process
def test_a_broken_package_is_named_when_its_model_is_asked_for_and_breaks_no_other(answers):
    assert answers["broken"] == (
        "model 'broken': entry point 'broken_models:X' of package 'broken_models' should be "
        "importable. Received: ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    )
    assert answers["cnn"] == ["CNN", "cnn", 48]


@pytest.mark.process
def test_an_entry_point_that_is_no_architecture_is_refused(answers):
    assert answers["number"].endswith(
        "of package 'their_models' should be a subclass of "
        "activity_embeddings.training.models.Architecture. "
        "Received: 7"
    )


@pytest.mark.process
def test_an_entry_point_under_another_name_than_its_class_is_refused(answers):
    assert answers["renamed"].endswith("should be registered as 'renamed'. Received: 'theirs'")


@pytest.mark.process
def test_a_package_cannot_take_a_name_of_ours(answers):
    assert answers["lstm"] == (
        "model 'lstm': the names of models should be distinct. "
        "Received: activity_embeddings.training.models.lstm.LSTM and their_models.Taken"
    )


@pytest.mark.process
def test_two_packages_cannot_share_a_name(answers):
    assert answers["plain"].startswith("model 'plain': the names of models should be distinct.")
    assert "their_models.Plain" in answers["plain"]
    assert "more_models.Plain" in answers["plain"]
