"""Logs: structlog, one JSON object a line on stderr, or readable lines for a person."""

from __future__ import annotations

import logging
import sys

import structlog

from schemas.settings import LogSettings


def configure(settings: LogSettings, **names: str) -> None:
    """Set up logging for this process, the libraries' own included. Every line has the names: `worker`, say."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer], foreign_pre_chain=shared
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for noisy in ("urllib3", "diffusers", "transformers", "PIL", "uvicorn", "httpx"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    # Kafka's client warns of every answer that it will ask for again; what matters of it our edge says itself.
    logging.getLogger("aiokafka").setLevel(max(logging.ERROR, root.level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # A logger that was kept would stay as it was at its first use, whatever is configured later.
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(**names)
