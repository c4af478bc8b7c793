"""What the options of several commands share: types of values, and options passed as one object."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import click
from click.core import ParameterSource

from activity_embeddings.transformations.cli import one_line_errors
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.extras import require_extra

if TYPE_CHECKING:
    from activity_embeddings.training.objectives import Objective

FOLDER = click.Path(file_okay=False, path_type=Path)


class Setting(click.ParamType):
    """`name=value`, the value as JSON or else as text."""

    name = "name=value"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[str, Any]:
        """Parse it."""
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not equals:
            self.fail(f"expected name=value. Received: {value!r}")
        try:
            parsed = json.loads(text)
        except json.JSONDecodeError:
            parsed = text
        return name, tuple(parsed) if isinstance(parsed, list) else parsed


class NamedPaths(click.ParamType):
    """`name=folder`, or `name=folder,folder`."""

    name = "name=folder"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[str, tuple[Path, ...]]:
        """Parse it."""
        if isinstance(value, tuple):
            return value
        name, equals, folders = value.partition("=")
        if not (name and equals and folders):
            self.fail(f"expected NAME=FOLDER. Received: {value!r}")
        return name, tuple(map(Path, folders.split(",")))


class NamedObject(click.ParamType):
    """`name=module:object`."""

    name = "name=module:object"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[str, str]:
        """Parse it."""
        if isinstance(value, tuple):
            return value
        name, _, path = value.partition("=")
        module, _, attribute = path.partition(":")
        if not (name and module and attribute):
            self.fail(f"expected NAME=MODULE:OBJECT. Received: {value!r}")
        return name, path


def grouped(argument: str, group: Any, *options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that adds options to a command, which gets their values as one object.

    Parameters
    ----------
    argument
        The command's argument that gets the object.
    group
        A dataclass with a field for each option.
    *options
        What `click.option` returns.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(*arguments: Any, **values: Any) -> Any:
            given = {field.name: values.pop(field.name) for field in fields(group)}
            return command(*arguments, **values, **{argument: group(**given)})

        for option in reversed(options):
            call = option(call)
        return call

    return decorate


@dataclass(frozen=True)
class FitOptions:
    """The options of fitting that every command shares which trains."""

    epochs: int | None
    batch_size: int | None
    patience: int | None
    ema_momentum: float | None
    seed: int

    def given(self, **more: Any) -> dict[str, Any]:
        """Return what was given of these and of more options, as fields of `Fit`."""
        return {name: value for name, value in (asdict(self) | more).items() if value is not None}


fit_options = grouped(
    "fit",
    FitOptions,
    click.option("--epochs", type=int, help="Maximum number of passes over the examples."),
    click.option("--batch-size", type=int, help="Number of examples a step."),
    click.option(
        "--patience", type=int, help="Number of epochs without a better figure before stopping."
    ),
    click.option(
        "--ema-momentum",
        type=float,
        help="Keep a moving average of the weights, of which a step keeps this share, as 0.998. "
        "Default: the weights of the last step.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Random seed."),
)
learning_rate_option = click.option("--learning-rate", type=float, help="AdamW learning rate.")
"""Of commands that train once; `tune` searches it."""


@contextmanager
def training(
    extra: str | None = None, *, feast: bool = True, tensorflow: bool = True
) -> Iterator[None]:
    """Import what a command needs without notes for developers; say errors in one line.

    Parameters
    ----------
    extra
        What the command needs beside the core, see `extras`.
    feast, tensorflow
        Whether it needs them, which take seconds to import.
    """
    with one_line_errors(), warnings.catch_warnings():
        if extra is not None:
            require_extra(extra, click.get_current_context().command_path)
        if feast:  # It filters warnings when it is imported, so that ours comes after.
            import_module("feast")
        # Of Keras about numpy and of Feast's DuckDB store about DuckDB: not for users.
        warnings.simplefilter("ignore", DeprecationWarning)
        if tensorflow:
            from activity_embeddings.transformations.inference import tensorflow as quiet

            quiet.tensorflow()
        yield


def given_options() -> dict[str, str]:
    """Return the options that the user has given, even at their defaults, by name.

    The values are the names of their parameters.
    """
    context = click.get_current_context()
    return {
        option.opts[0]: option.name
        for option in context.command.params
        if option.name is not None
        and context.get_parameter_source(option.name) is not ParameterSource.DEFAULT
    }


def with_settings(kind: Any, what: str, settings: dict[str, Any]) -> Any:
    """Return an instance of a dataclass with some of its fields set.

    Raises
    ------
    InvalidInput
        It has no such field, or one of another type. `what` says in the message what it is.
    """
    from pydantic import PydanticUserError, TypeAdapter, ValidationError

    known = [field.name for field in fields(kind)]
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise InvalidInput(
            f"{what}: expected settings among {', '.join(known)}. Received: {', '.join(unknown)}"
        )
    try:
        types = get_type_hints(kind)
    except NameError:  # of what was imported for a type checker alone
        types = {}
    for name, value in settings.items():
        try:
            TypeAdapter(types.get(name, Any)).validate_python(value, strict=True)
        except ValidationError as error:
            expected = error.errors()[0]["msg"].removeprefix("Input should be ")
            raise InvalidInput(
                f"{what}: `{name}` should be {expected}. Received: {value!r}"
            ) from error
        except PydanticUserError:  # of a type that its class alone knows
            continue
    return kind(**settings)


def objective_with(kind: type[Objective], given: Iterable[tuple[str, Any]]) -> Any:
    """Return an objective with some of its settings, and some of those of its windows.

    Raises
    ------
    InvalidInput
        See `with_settings`.
    """
    from activity_embeddings.training.examples.held_out import Windows

    settings = dict(given)
    windows = getattr(kind(), "windows", None)
    if isinstance(windows, Windows) and isinstance(settings.get("windows"), dict):
        with_settings(Windows, "windows", settings["windows"])
        settings["windows"] = replace(windows, **settings["windows"])
    return with_settings(kind, f"objective {kind.name!r}", settings)
