"""The one error that bad input raises, and how it shows what was received."""

import reprlib
from datetime import date
from typing import Any

import click

# Whatever was received is shown on one short line: long values are cut, and deep ones not entered.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 3


class InvalidInput(click.ClickException, ValueError):
    """Input that cannot be published: a column, vector, model or interval.

    The message says what was expected, what was received and where. It is a
    `click.ClickException`, so that the `feast` command prints the message alone and exits with
    status 1, and a `ValueError` for callers in Python.
    """


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


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
