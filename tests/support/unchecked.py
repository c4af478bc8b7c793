"""Feast without typeguard, which checks the type of every argument: import this before Feast.

It is as under `PYTHONOPTIMIZE`, with which `docs/how-to/deploy.md` starts it, but that variable
would take assertions out of helpers, too. Files of tests that are mostly Feast spend a quarter to a
half of their time on these checks.
"""

import typeguard


def typechecked(target=None, **_):
    """Return a function or class as it is."""
    return target or typechecked


typeguard.typechecked = typechecked
