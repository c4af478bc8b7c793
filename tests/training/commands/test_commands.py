"""The command `activity-embeddings`: put together once, and quick to help."""

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import click
import pytest
from click.testing import CliRunner

from activity_embeddings.training.commands import cli
from activity_embeddings.training.commands.options import objective_with, with_settings
from activity_embeddings.training.objectives import (
    FuturePositives,
    NextPositive,
    NextSession,
    Proxy,
)
from activity_embeddings.transformations.cli import cli as serving
from activity_embeddings.transformations.errors import InvalidInput

OPTIONS = [
    pytest.param(option, id=f"{name}-{option.name}")
    for name, command in cli.commands.items()
    for option in command.params
    if isinstance(option, click.Option)
]


@pytest.mark.process
def test_help_needs_none_of_what_the_commands_work_with():
    code = (
        "import sys; from activity_embeddings.training.commands import cli; "
        "cli(['evaluate', '--help'], standalone_mode=False); "
        "print(sorted({'feast', 'keras', 'numpy', 'pyarrow', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--rank-from" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_commands_that_serve_are_among_them_and_know_nothing_of_the_others():
    assert {"push", "check"} <= set(serving.commands) < set(cli.commands)
    assert {"train", "evaluate", "compare"} <= set(cli.commands) - set(serving.commands)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        # As text it would count as true.
        ("ages=no", r"`ages` should be a valid boolean\. Received: 'no'"),
        ("filters=many", r"`filters` should be a valid integer\. Received: 'many'"),
        ("ensemble=2.5", r"`ensemble` should be a valid integer.*\. Received: 2\.5"),
        ("dropout=high", r"`dropout` should be a valid number\. Received: 'high'"),
        ("colour=1", "expected settings among .*filters.* colour"),
    ],
)
def test_a_setting_of_another_type_is_refused_before_anything_is_read(setting, says, tmp_path):
    days = ["--from", "2024-01-01", "--validate-from", "2024-02-01", "--until", "2024-03-01"]
    command = ["-C", str(tmp_path), "train", "cnn", *days, "--set", setting]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 1
    assert re.search(f"Error: model 'cnn': {says}", result.output)


def test_settings_are_checked_by_their_types_and_no_more():
    @dataclass(frozen=True)
    class Kind:
        share: float = 0.5
        names: tuple[str, ...] = ()
        path: click.Path | None = None
        most: int | None = None

    path = click.Path()
    given = {"share": 1, "names": ("a", "b"), "path": path, "most": None}
    assert with_settings(Kind, "kind", given) == Kind(1, ("a", "b"), path, None)
    with pytest.raises(InvalidInput, match=r"kind: `names` should be a valid tuple\. .*'a'"):
        with_settings(Kind, "kind", {"names": "a"})


def test_types_that_are_there_for_a_type_checker_alone_are_not_checked():
    @dataclass(frozen=True)
    class Kind:
        share: float = 0.5
        path: "NotImported | None" = None  # noqa: F821

    assert with_settings(Kind, "kind", {}) == Kind()
    assert with_settings(Kind, "kind", {"share": 1.0}) == Kind(1.0)


@pytest.mark.parametrize("objective", [NextPositive, FuturePositives, NextSession, Proxy])
def test_windows_that_are_given_in_part_keep_the_rest_of_the_objective(objective):
    given = objective_with(objective, (("windows", {"per_member": 16}),))
    own = objective().windows
    assert given == objective(windows=replace(own, per_member=16))
    assert (own.minimum, own.prefixes) == ((3, False) if objective is Proxy else (1, True))


@pytest.mark.parametrize("command", ["train", "train-item-encoder"])
@pytest.mark.parametrize(
    ("windows", "says"),
    [
        ('{"most": 1}', r"windows: expected settings among minimum, .*Received: most"),
        ('{"stride": 1.5}', r"windows: `stride` should be a valid integer.* Received: 1\.5"),
        ('{"minimum": -1}', r"windows: `minimum` should be 0 or more\. Received: -1"),
        ("few", r"objective 'next_positive': `windows` should be .*Received: 'few'"),
    ],
)
def test_windows_that_make_no_sense_are_refused_before_anything_is_read(
    command, windows, says, tmp_path
):
    days = ["--from", "2024-01-01", "--validate-from", "2024-02-01", "--until", "2024-03-01"]
    options = ["train", "cnn", *days] if command == "train" else [command, *days[-2:]]
    result = CliRunner().invoke(
        cli, ["-C", str(tmp_path), *options, "--objective-set", f"windows={windows}"]
    )
    assert result.exit_code == 1
    assert re.search(f"Error: {says}", result.output)


def test_windows_of_an_objective_without_any_are_refused():
    @dataclass(frozen=True, kw_only=True)
    class Plain(Proxy):
        windows: ClassVar[None] = None
        name: ClassVar[str] = "plain"

    with pytest.raises(InvalidInput, match=r"objective 'plain': expected settings .*: windows"):
        objective_with(Plain, (("windows", {"minimum": 1}),))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_says_what_it_is(option):
    assert option.help and option.help[0].isupper()
    assert option.help.endswith(".")
    assert not option.help.startswith("Of ")
