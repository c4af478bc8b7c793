"""The one error that bad input raises."""

import click


class InvalidInput(click.ClickException, ValueError):
    """Input that cannot be published: a column, vector, model or interval.

    The message says what was expected, what was received and where. It is a
    `click.ClickException`, so that the `feast` command prints the message alone and exits with
    status 1, and a `ValueError` for callers in Python.
    """
