"""Errors are plain exceptions to catch; a command that runs prints them alone."""

import doctest
import pickle

import click
import pytest
from click.testing import CliRunner

import activity_embeddings
from activity_embeddings import (
    AlreadyRunning,
    InvalidData,
    InvalidInput,
    InvalidRequest,
    MissingExtra,
    ModelMismatch,
    NotReady,
)
from activity_embeddings.transformations import errors

KINDS = [AlreadyRunning, InvalidData, InvalidRequest, MissingExtra, ModelMismatch, NotReady]


def test_the_examples_of_the_docstrings_hold():
    failed, tried = doctest.testmod(errors)
    assert tried == 2 and failed == 0


@pytest.mark.parametrize("kind", [InvalidInput, *KINDS], ids=lambda kind: kind.__name__)
def test_an_error_is_a_value_error_that_says_its_message(kind):
    error = kind("events: expected rows. Received: none")
    assert type(error) is kind
    assert isinstance(error, InvalidInput) and isinstance(error, ValueError)
    assert str(error) == "events: expected rows. Received: none"
    assert not isinstance(error, click.ClickException)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind and str(copy) == str(error)


@pytest.mark.parametrize("kind", [InvalidInput, *KINDS], ids=lambda kind: kind.__name__)
def test_a_command_prints_the_message_alone(kind):
    @click.command()
    def command():
        raise kind("events: expected rows. Received: none")

    done = CliRunner().invoke(command)
    assert done.exit_code == kind.exit_code
    assert done.stdout == ""
    assert done.stderr == "Error: events: expected rows. Received: none\n"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_code_of_a_command_catches_an_error_by_its_kind(kind):
    @click.command()
    def command():
        for caught in (kind, InvalidInput, ValueError):
            try:
                raise kind("events: expected rows")
            except caught as error:
                click.echo(f"{type(error).__name__}: {error}")

    done = CliRunner().invoke(command)
    assert done.stdout == f"{kind.__name__}: events: expected rows\n" * 3


@pytest.mark.parametrize("kind", [InvalidInput, MissingExtra])
def test_a_message_is_no_page(kind):
    """Names, types and ids may be one."""
    said = f"events: column {'x' * 100_000!r} should be int64. Received: string"

    @click.command()
    def command():
        raise kind(said)

    for text in (str(kind(said)), CliRunner().invoke(command).stderr):
        assert 2_000 < len(text) < 2_100
        assert "events: column 'xxx" in text and "should be int64. Received: string" in text


def test_a_missing_extra_is_an_import_error():
    with pytest.raises(ImportError):
        raise MissingExtra("train: expected scipy")


def test_every_kind_is_public():
    assert {kind.__name__ for kind in KINDS} <= set(activity_embeddings.__all__)
    assert {kind.__name__ for kind in InvalidInput.__subclasses__()} >= {
        kind.__name__ for kind in KINDS
    }
