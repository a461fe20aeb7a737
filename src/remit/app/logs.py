"""Structured logs on standard error: lines for people at a terminal, JSON elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from datetime import datetime
from typing import Any

import structlog


def set_up(level: str = "info", *, json: bool | None = None) -> None:
    """Configure logging for a process.

    Args:
        level: the least level that is shown.
        json: JSON lines; where None, JSON unless standard error is a terminal.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else _for_people
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # The usual formatter shows every frame's local variables, tokens among them.
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    # Libraries log through the standard module; their debug lines may hold headers.
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(message)s")


_COLOURS = {"warning": "33", "error": "31", "critical": "31"}


def _for_people(_: Any, __: str, event: structlog.typing.EventDict) -> str:
    """Return one line: the local time, what happened, and its details; a trace goes below."""
    at = datetime.fromisoformat(event.pop("timestamp")).astimezone()
    level, happened = event.pop("level"), str(event.pop("event"))
    trace = event.pop("exception", None)
    if happened == "upstream said":
        # What it wrote is its own: its name, and then its words.
        words = f"{event.pop('upstream')} | {event.pop('line')}"
    else:
        details = "  ".join(f"{key}={_plain(value)}" for key, value in event.items())
        words = f"{happened}  {details}" if details else happened
    mark = f"{level}: " if level in _COLOURS else ""
    if mark and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        mark = f"\x1b[{_COLOURS[level]}m{mark}\x1b[0m"
    # What an upstream or an agent wrote must not drive the terminal.
    said = f"{at:%H:%M:%S} {mark}{_printable(words)}"
    lines = str(trace).splitlines() if trace else []
    return "\n".join([said, *(f"  {_printable(line)}" for line in lines)])


def _plain(value: object) -> str:
    text = str(value)
    return f'"{text}"' if " " in text or not text else text


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
