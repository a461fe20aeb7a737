"""Structured logs on standard error: lines for people at a terminal, JSON elsewhere."""

from __future__ import annotations

import logging
import sys

import structlog


def set_up(level: str = "info", *, json: bool | None = None) -> None:
    """Configure logging for a process.

    Args:
        level: the least level that is shown.
        json: JSON lines; where None, JSON unless standard error is a terminal.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        # The usual formatter shows every frame's local variables, tokens among them.
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if as_json else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    # Libraries log through the standard module; their debug lines may hold headers.
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(message)s")
