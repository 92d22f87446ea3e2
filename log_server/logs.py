"""Structured logs on stderr: JSON for machines, coloured lines on a terminal. Never bodies, queries or tokens.

Therefore tracebacks are without the values of variables, which the console would show otherwise.
"""

import logging
import sys
from contextvars import ContextVar

import structlog

from assay.log_server.config import LoggingSection

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The name of the request that this thread answers, while it answers one."""


def configure(section: LoggingSection) -> None:
    """Set up structlog for this process."""
    level = logging.getLevelNamesMapping()[section.level.upper()]
    as_json = section.format == "json" or (section.format == "auto" and not sys.stderr.isatty())
    structlog.configure(
        processors=[
            _add_request_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([structlog.processors.format_exc_info] if as_json else []),
            structlog.processors.JSONRenderer() if as_json else _console(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _console() -> structlog.typing.Processor:
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def _add_request_id(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    request_id = REQUEST_ID.get()
    if request_id is not None:
        event.setdefault("request_id", request_id)
    return event
