"""The log's vocabulary: what is logged, under which words, as text for people or JSON for machines.

One event is one line. What came from a peer is made printable first, so that it can't forge a second line.
"""

from __future__ import annotations

import json
import logging
import logging.config
import re
from typing import Any

from .contracts import Failure
from .replies import printable, severity

__all__ = ("KeyValueFormatter", "configure", "event", "failure")

_PLAIN = re.compile(r"[!#-<>-~]{1,2000}")
"""What is shown as it is: printable ASCII without blank, quotation mark and equals sign."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def event(logger: logging.Logger, level: int, words: str, /, **facts: object) -> None:
    """Log one event: ``words`` is the fixed vocabulary, ``facts`` are its values, in the order given."""
    # Percent signs in `words` would be taken for arguments by %-formatting; there are none in our vocabulary.
    logger.log(level, words, extra={"facts": facts})


def failure(logger: logging.Logger, words: str, error: BaseException, /, **facts: object) -> None:
    """Log a failure at the level that its kind deserves; what nobody expected comes with its traceback."""
    level = severity(error)
    unexpected = not isinstance(error, Failure)
    cause = f"{type(error).__name__}: {error}" if unexpected else str(error)
    logger.log(level, words, extra={"facts": {**facts, "cause": cause}}, exc_info=error if unexpected else None)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """The event's facts, or the ``extra`` of a library or plugin that logs in the ordinary way."""
    given = getattr(record, "facts", None)
    if isinstance(given, dict):
        return given
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class KeyValueFormatter(logging.Formatter):
    """``2026-01-31T12:00:00+0100 info smtp message relayed client=10.0.0.7 octets=2048``."""

    default_time_format = "%Y-%m-%dT%H:%M:%S%z"

    def __init__(self) -> None:
        super().__init__(datefmt=self.default_time_format)

    def format(self, record: logging.LogRecord) -> str:
        """One line, with a traceback behind it where there is one."""
        facts = "".join(f" {key}={_shown(value)}" for key, value in _facts(record).items())
        time = self.formatTime(record, self.datefmt)
        line = f"{time} {record.levelname.lower()} {_one_line(record.getMessage())}{facts}"
        if record.exc_info:
            # Indented, so that no line of an exception's text can look like an event.
            traceback = self.formatException(record.exc_info).splitlines()
            line = "\n".join([line, *(f"    {printable(row, limit=2000)}" for row in traceback)])
        return line


def _one_line(text: str) -> str:
    return printable(text, limit=2000)


def _shown(value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    text = _one_line(text)
    # Quoted, so that a value which a peer chose can not look like the next fact.
    return json.dumps(text) if not text or re.search(r'[ ="]', text) else text


def configure(level: str, form: str) -> None:
    """Send all logging to standard error. Libraries speak up from warning on, or at ``debug`` altogether."""
    libraries = "DEBUG" if level == "debug" else "WARNING"
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "text": {"()": KeyValueFormatter},
                "json": {"()": "legacy_email_proxy.log.json_formatter"},
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": form, "stream": "ext://sys.stderr"}},
            "loggers": {
                "legacy_email_proxy": {"level": level.upper()},
                # aiosmtpd logs every command at info and content lines at debug: our own lines say it better.
                "mail.log": {"level": "WARNING"},
            },
            "root": {"level": libraries, "handlers": ["stderr"]},
        }
    )


def json_formatter() -> logging.Formatter:
    """One JSON object per line: ``time``, ``level``, ``event`` and the event's facts."""
    from pythonjsonlogger.json import JsonFormatter

    class _Formatter(JsonFormatter):
        def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
            log_data["time"] = self.formatTime(record, KeyValueFormatter.default_time_format)
            log_data["level"] = record.levelname.lower()
            log_data["event"] = record.getMessage()
            log_data.update(
                {key: value if isinstance(value, (int, float)) else str(value) for key, value in _facts(record).items()}
            )
            if record.exc_info:
                log_data["traceback"] = self.formatException(record.exc_info)

    return _Formatter()
