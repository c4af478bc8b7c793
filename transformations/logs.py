"""How this package says what it does: by `logging`, under the name `activity_embeddings`.

A program that has set up logging, by more than `logging.basicConfig()`, gets reports there, at
level INFO. Elsewhere, as under the command `feast`, they go to standard output as they are, or as
JSON lines:

    {"time": "2024-03-01T00:30:00.123456+00:00", "level": "INFO", "logger": "activity_embeddings",
     "message": "...", "facts": {...}}
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

JSON = "ACTIVITY_EMBEDDINGS_LOG_JSON"
"""Environment variable; whatever it holds, JSON lines are written."""

reports = logging.getLogger("activity_embeddings")
_json: ContextVar[bool] = ContextVar("whether to write JSON lines", default=False)


class JsonLines(logging.Formatter):
    """Writes each record of logging as one line of JSON; `facts` are what `extra` gave."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if hasattr(record, "facts"):
            line["facts"] = record.facts
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


@contextmanager
def reports_shown() -> Iterator[None]:
    """Show reports on standard output while the body runs, unless the program shows them."""
    if _is_set_up() and not wants_json():
        yield
        return
    handler = logging.StreamHandler(sys.stdout)
    if wants_json():
        handler.setFormatter(JsonLines())
    level, propagate = reports.level, reports.propagate
    reports.addHandler(handler)
    reports.setLevel(logging.INFO)
    reports.propagate = False
    try:
        yield
    finally:
        reports.removeHandler(handler)
        reports.setLevel(level)
        reports.propagate = propagate


def _is_set_up() -> bool:
    """Return whether the program shows reports in a way of its own.

    `logging.basicConfig()` as such, which the command `feast` calls, is none.
    """
    handlers = [*reports.handlers, *logging.getLogger().handlers]
    own = [each for each in handlers if _is_own(each)]
    return bool(own) and reports.isEnabledFor(logging.INFO)


def _is_own(handler: logging.Handler) -> bool:
    """Return whether a handler is another than that of `logging.basicConfig()`."""
    plain = getattr(handler.formatter, "_fmt", None) == logging.BASIC_FORMAT
    return type(handler) is not logging.StreamHandler or not plain


@contextmanager
def json_lines() -> Iterator[None]:
    """Have reports, and errors of commands, written as JSON lines in the body."""
    token = _json.set(True)
    try:
        yield
    finally:
        _json.reset(token)


def wants_json() -> bool:
    """Return whether JSON lines are asked for."""
    return _json.get() or bool(os.environ.get(JSON))


def json_line(level: int, message: str, **facts: object) -> str:
    """Return one line as `JsonLines` writes it."""
    extra = {"facts": facts} if facts else {}
    record = reports.makeRecord(reports.name, level, "", 0, message, (), None, extra=extra)
    return JsonLines().format(record)
