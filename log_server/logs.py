"""Structured logs on stderr: JSON for machines, coloured lines on a terminal. Never bodies, queries or tokens."""

import logging
import sys

import structlog

from assay.log_server.config import LoggingSection


def configure(section: LoggingSection) -> None:
    """Set up structlog for this process."""
    level = logging.getLevelNamesMapping()[section.level.upper()]
    as_json = section.format == "json" or (section.format == "auto" and not sys.stderr.isatty())
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([structlog.processors.format_exc_info] if as_json else []),
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
