"""The architectures that are known by name: this package's own, and those of other packages.

A class gets its name from a decorator, `@register("cnn")`. Another package adds its own by an
entry point in the group `activity_embeddings.models`, whose name is the model's and whose value is
the class:

    [project.entry-points."activity_embeddings.models"]
    mixer = "their_package.mixer:Mixer"

It is imported when that model is asked for, so a broken package breaks its own models alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from activity_embeddings.training.models.base import Architecture
from activity_embeddings.transformations.errors import InvalidInput

ENTRY_POINT_GROUP = "activity_embeddings.models"
"""Where other packages declare their architectures."""

Registered = TypeVar("Registered", bound=type[Architecture])

_registered: dict[str, type[Architecture]] = {}


def register(name: str) -> Callable[[Registered], Registered]:
    """Return the decorator that makes a class known as `name`, and sets its `name`.

    Defining a class again, as the cell of a notebook does, replaces it.

    Parameters
    ----------
    name
        Lower-case letters, digits and '_': it can name a feature view.

    Raises
    ------
    InvalidInput
        Another class has the name, the name cannot name a view, or what is decorated is not an
        `Architecture`.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from activity_embeddings.training.models import CNN, architecture
    >>> @register("wide_cnn")
    ... @dataclass(frozen=True, kw_only=True)
    ... class WideCNN(CNN):
    ...     filters: int = 128
    >>> architecture("wide_cnn")().filters
    128
    """
    if not is_name(name):
        raise InvalidInput(
            f"register: `name` should be lower-case letters, digits and '_'. Received: {name!r}"
        )

    def decorate(cls: Registered) -> Registered:
        if not (isinstance(cls, type) and issubclass(cls, Architecture)):
            raise InvalidInput(
                f"model {name!r}: expected a subclass of "
                f"activity_embeddings.training.models.Architecture. Received: {cls!r}"
            )
        other = _registered.get(name)
        if other is not None and _path(other) != _path(cls):
            raise _duplicate(name, _path(other), _path(cls))
        cls.name = name
        _registered[name] = cls
        return cls

    return decorate


def is_name(name: str) -> bool:
    """Whether `name` can name a model, and so a feature view."""
    return re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None


def known_models() -> list[str]:
    """Return the names of all architectures, sorted: registered ones and entry points."""
    return sorted({*_registered, *(point.name for point in _entry_points())})


def architecture(name: str) -> type[Architecture]:
    """Return the class known as `name`; `architecture(name)(**hyperparameters)` is an instance.

    Raises
    ------
    InvalidInput
        No such name (the message lists the known ones), two classes of that name, or an entry
        point that cannot be loaded (the message names its package).
    """
    points = {point.value: point for point in _entry_points() if point.name == name}
    for point in points.values():
        _load(name, point)
    if name not in _registered:
        raise InvalidInput(
            f"expected the name of a model, one of {', '.join(known_models())}. Received: {name!r}"
        )
    return _registered[name]


def _entry_points() -> list[EntryPoint]:
    return list(entry_points(group=ENTRY_POINT_GROUP))


def _load(name: str, point: EntryPoint) -> None:
    """Import the class of an entry point and register it, if its decorator did not."""
    package = point.dist.name if point.dist else "unknown"
    where = f"model {name!r}: entry point {point.value!r} of package {package!r}"
    try:
        cls = point.load()
    except Exception as error:  # whatever the import of another package raises
        raise InvalidInput(
            f"{where} should be importable. Received: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Architecture)):
        raise InvalidInput(
            f"{where} should be a subclass of activity_embeddings.training.models.Architecture. "
            f"Received: {cls!r}"
        )
    if _registered.get(name) is cls:
        return
    registered_as = cls.__dict__.get("name")
    if registered_as is not None:
        if name in _registered:
            raise _duplicate(name, _path(_registered[name]), _path(cls))
        raise InvalidInput(f"{where} should be registered as {name!r}. Received: {registered_as!r}")
    register(name)(cls)


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _duplicate(name: str, first: str, second: str) -> InvalidInput:
    return InvalidInput(
        f"model {name!r}: the names of models should be distinct. Received: {first} and {second}"
    )
