"""The command `activity-embeddings`: put together once, and quick to help."""

import subprocess
import sys

import click
import pytest

from activity_embeddings.training.commands import cli
from activity_embeddings.transformations.cli import cli as serving

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


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_says_what_it_is(option):
    assert option.help and option.help[0].isupper()
    assert option.help.endswith(".")
    assert not option.help.startswith("Of ")
