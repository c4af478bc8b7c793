"""The errors that bad input raises, and how they show what was received."""

from __future__ import annotations

import math
import reprlib
import sys
from datetime import date
from typing import Any, Self

# Whatever was received is shown on one short line: long values are cut, and deep ones not entered.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 3


LONGEST_LINE = 1_000
"""Characters of what other libraries say that errors repeat whole."""

LONGEST_MESSAGE = 2_000
"""Characters of an error's message; of a longer one, as with names that are pages, its ends."""

_S3_IS_AWAY = [
    f"AWS Error {name} "
    for name in ("NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SERVICE_UNAVAILABLE", "SLOW_DOWN")
]


class InvalidInput(ValueError):
    """Input that cannot be used: data, a setting, a model or a request.

    The message says where, what was expected and what was received. The kinds below are for
    callers that act on them; what is of no kind is an `InvalidInput` itself. `exit_code` is the
    status with which a command ends.

    While a command of Click runs, as `feast apply`, an error is a `click.ClickException` too. Click
    shows a traceback of every other one; of these it prints the message.
    """

    exit_code = 1

    def __new__(cls, *args: Any) -> Self:
        """Return an error, in a command one that Click prints alone."""
        click = sys.modules.get("click")
        if click is not None and click.get_current_context(silent=True) is not None:
            cls = _printed_by_click(cls)
        return super().__new__(cls, *args)

    def __init__(self, message: str) -> None:
        super().__init__(_ends(message, LONGEST_MESSAGE))


class InvalidData(InvalidInput):
    """Rows of a source, or pushed events, that cannot be used: a column, a type or a value."""


class ModelMismatch(InvalidInput):
    """A model or an encoder that is not the one that was applied, or made for other vectors."""


class NotReady(InvalidInput):
    """What this needs has not been applied or published yet; the message names the command."""


class GuardFailed(InvalidInput):
    """What was computed is unlike what was published before; the message says how to accept it."""

    exit_code = 3


class AlreadyRunning(InvalidInput):
    """Another process is publishing the same views; try again when it has ended."""

    exit_code = 4


class StoreUnreachable(InvalidInput):
    """A store did not answer; try again."""

    exit_code = 5


class MissingExtra(InvalidInput, ImportError):
    """A part of the package whose dependencies are not installed; the message names the extra."""


def _printed_by_click(cls: Any) -> Any:
    """Return a class like `cls`, under the same name, whose instances Click prints alone."""
    from click import ClickException

    def init(self: ClickException, message: str) -> None:
        ClickException.__init__(self, _ends(message, LONGEST_MESSAGE))

    members = {name: getattr(cls, name) for name in ("__doc__", "__module__", "__qualname__")}
    return type(cls.__name__, (cls, ClickException), {**members, "__init__": init})


def cannot_connect(error: BaseException) -> bool:
    """Return whether an error of a store's client says that the store does not answer.

    Clients have no common class for it, so that names are looked at, and what Arrow says of S3.
    """
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if isinstance(error, OSError) and any(answer in str(error) for answer in _S3_IS_AWAY):
        return True
    by_driver = getattr(error, "orig", error)  # of SQLAlchemy
    return type(by_driver).__module__ != "sqlite3" and any(  # where it is a table that is missing
        kind.__name__ in ("ConnectionError", "TimeoutError", "OperationalError")
        for kind in type(error).__mro__
    )


def unreadable(
    label: str, error: BaseException, expected: str = "a readable source"
) -> InvalidInput:
    """Return what is said of a source that cannot be read: whether its store answers or not.

    Parameters
    ----------
    label
        What errors call the source.
    error
        Of the client that reads it.
    expected
        What it should be.
    """
    kind = StoreUnreachable if cannot_connect(error) else InvalidData
    return kind(f"{label}: expected {expected}. Received: {first_line(error)}")


def quote(value: Any) -> str:
    """Return a value as errors show it: one short line that can be printed.

    Examples
    --------
    >>> quote("noon"), quote(None), quote([1, 2])
    ("'noon'", 'null', '[1, 2]')
    """
    if value is None:
        return "null"
    try:
        shown = str(value) if isinstance(value, date) else _SHORT.repr(value)
    except (ValueError, RecursionError):
        # Python writes no whole number of thousands of digits.
        return f"a value of type {type(value).__name__}"
    return " ".join(shown.encode("ascii", "backslashreplace").decode().split())


def received(value: Any) -> str:
    """Return a value as errors show it, with its type where the value alone does not tell it.

    Examples
    --------
    >>> received("noon"), received(1.5), received(None)
    ("'noon'", '1.5 of type float', 'null')
    """
    shown, kind = quote(value), f"of type {type(value).__name__}"
    return shown if value is None or isinstance(value, str) or kind in shown else f"{shown} {kind}"


def require_kinds(where: str, **given: tuple[Any, type | tuple[type, ...]]) -> None:
    """Raise `InvalidInput` unless arguments are of the kinds that are expected.

    Parameters
    ----------
    where
        Whose arguments.
    given
        By name, each value and its kinds. True and False are no integers.
    """
    for name, (value, expected) in given.items():
        kinds = expected if isinstance(expected, tuple) else (expected,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
            raise InvalidInput(
                f"{where}: `{name}` should be of type {wanted}. Received: {received(value)}"
            )


def require_texts(where: str, **given: Any) -> list[tuple[str, ...]]:
    """Return lists or tuples of text as tuples.

    Raises
    ------
    InvalidInput
        One is something else, such as a single text, which is a sequence too.
    """
    for name, value in given.items():
        require_kinds(where, **{name: (value, (tuple, list))})
        require_kinds(where, **{f"{name}[{i}]": (text, str) for i, text in enumerate(value)})
    return [tuple(value) for value in given.values()]


def require_at_least(where: str, least: float, **given: float) -> None:
    """Refuse numbers that are less, infinite or no numbers.

    Raises
    ------
    InvalidInput
        One is.
    """
    for name, value in given.items():
        if not least <= value < math.inf:
            raise InvalidInput(f"{where}: `{name}` should be {least:g} or more. Received: {value}")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind; of a long line, its ends."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line if len(line) <= LONGEST_LINE else _ends(line, 400)


def _ends(text: str, most: int) -> str:
    """Return a text; of one longer than `most` characters, half of these from either end."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-(most // 2) :]}"
