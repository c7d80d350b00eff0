"""The log's vocabulary: what is logged, under which words, as text for people or JSON for machines.

One event is one line. What came from a peer is made printable first, so that it can't forge a second line.

Lines are written by a thread of their own, see :mod:`.log_writer`.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from .contracts import BOUND, Failure
from .log_writer import Writer
from .replies import printable, severity

__all__ = (
    "CONTENT",
    "FIGURES",
    "HEADER",
    "KeyValueFormatter",
    "Looks",
    "Observer",
    "Writer",
    "configure",
    "dialogue",
    "event",
    "facts_of",
    "failure",
    "new_session",
    "observe",
    "octets",
    "plain",
    "unobserve",
)

_PLAIN = re.compile(r"[!#-<>-~]{1,2000}")
"""What is shown as it is: printable ASCII without blank, quotation mark and equals sign."""

_QUOTABLE = re.compile(r"[ !#-\[\]-~]{1,2000}")
"""What needs quotes around it and nothing more, where its blanks are single ones: no quotation mark and backslash."""

HEADER = 5
"""The level of a message's header: below ``debug``, so it is only seen where somebody traces that device."""

FIGURES = 15
"""The level of ``figures``, once a minute: below ``info``, so it is only written where the dialogues are, too."""

CONTENT = 4
"""The level of a message's content: only seen where somebody traces that device and asked for it."""

_PROCESS = "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(5))
_sessions = itertools.count(1)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Event(logging.LogRecord):
    """One event of ours: a record with ``facts``, in which what is bound to the task stands already.

    It is made without :class:`logging.LogRecord`'s constructor, and without the search for the line of code that calls.
    Both cost several times what writing the line costs, and nothing here shows what they find.
    """

    facts: dict[str, Any]

    def __init__(self, name: str, level: int, words: str, facts: dict[str, Any]) -> None:
        now = time.time()
        self.__dict__ = {
            **_NOWHERE, "name": name, "msg": words, "levelno": level, "levelname": logging.getLevelName(level),
            "created": now, "msecs": now % 1 * 1000, "relativeCreated": (now - _STARTED) * 1000, "facts": facts,
        }  # fmt: skip


_STARTED = time.time()
_UNKNOWN = ("processName", "threadName", "taskName", "process", "thread")
_NOWHERE = {**vars(logging.makeLogRecord({})), **dict.fromkeys(_UNKNOWN)}
"""The attributes of a record that comes from nowhere."""


def new_session(leg: str) -> str:
    """A name for a session of ``smtp`` or ``pop3``, like ``s7kq2m-15``.

    It stands in ``Received`` and in the spool, where it must not mean another session after a restart, nor one of
    another proxy on the same database: so a part of it belongs to this process.
    """
    return f"{leg[0]}{_PROCESS}-{next(_sessions)}"


def event(logger: logging.Logger, level: int, words: str, /, **facts: object) -> None:
    """Log one event: ``words`` is the fixed vocabulary, ``facts`` are its values, in the order given."""
    if logger.isEnabledFor(level):
        common = BOUND.get()
        logger.handle(_Event(logger.name, level, words, {**common, **facts} if common else facts))


def failure(logger: logging.Logger, words: str, error: BaseException, /, **facts: object) -> None:
    """Log a failure at the level of its kind; an unexpected one comes with its traceback.

    The facts that were bound where it was raised stand in the line too; ``record.failure`` is the exception.
    """
    level = severity(error)
    unexpected = not isinstance(error, Failure)
    cause = f"{type(error).__name__}: {error}" if unexpected else str(error)
    # The running task's own come after: where several wait for one result, it was raised for one of them only.
    facts = {**vars(error).get("bound", {}), **(BOUND.get() or {}), **facts, "cause": cause}
    if logger.isEnabledFor(level):
        record = _Event(logger.name, level, words, facts)
        vars(record)["failure"] = error
        if unexpected:
            record.exc_info = (type(error), error, error.__traceback__)
        logger.handle(record)


def dialogue(logger: logging.Logger, side: str, line: str) -> None:
    """One line of a protocol at debug: ``side`` is ``C`` or ``S``. The caller has left passwords out."""
    logger.debug("%s: %s", side, line)


def octets(logger: logging.Logger, level: int, side: str, lines: bytes) -> None:
    """Some lines of a message at :data:`HEADER` or :data:`CONTENT`, one event each.

    Only if a handler wants to see this task's: while one device is traced, the others' messages cost nothing.
    """
    if not logger.isEnabledFor(level):
        return
    bound = BOUND.get() or {}
    if any(handler.level <= level and wants(bound) for handler, wants in list(_observers.items())):
        for line in lines.decode("utf-8", "replace").splitlines():
            logger.log(level, "%s: %s", side, line)


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """The event's facts, or the ``extra`` of a library or plugin that logs in the ordinary way; before them what is
    bound to the running task, so this is to be called where the event is logged and not later in another thread.
    """
    if isinstance(record, _Event):
        return record.facts
    given = getattr(record, "facts", None)
    if not isinstance(given, dict):
        given = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    common = BOUND.get()
    return {**common, **given} if common else given


class KeyValueFormatter(logging.Formatter):
    """``2026-01-31T12:00:00+0100 info message relayed client=10.0.0.7 octets=2048``."""

    default_time_format = "%Y-%m-%dT%H:%M:%S%z"

    def __init__(self) -> None:
        super().__init__(datefmt=self.default_time_format)
        self._second = (0, "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (logging's name)
        """Its second; written anew only when another one comes."""
        second, text = self._second
        if second != int(record.created):
            text = super().formatTime(record, datefmt)
            self._second = (int(record.created), text)
        return text

    def format(self, record: logging.LogRecord) -> str:
        """One line, with a traceback behind it where there is one."""
        facts = "".join([f" {key}={_shown(value)}" for key, value in facts_of(record).items()])
        time = self.formatTime(record, self.datefmt)
        words = _vocabulary(record.msg) if isinstance(record, _Event) else _one_line(record.getMessage())
        line = f"{time} {record.levelname.lower()} {words}{facts}"
        if record.exc_info:
            # Indented, so that no line of an exception's text can look like an event.
            traceback = self.formatException(record.exc_info).splitlines()
            line = "\n".join([line, *(f"    {printable(row, limit=2000)}" for row in traceback)])
        return line


def _one_line(text: str) -> str:
    if text.isascii():
        return printable(text, limit=2000)
    # An address in another script stays readable. What is not printable (line ends of Unicode and marks that turn the
    # direction of writing among them) becomes a blank, so that it can't look like another line or another text.
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:2000]


# Our own words are few, and stand in the code.
_vocabulary = functools.lru_cache(1000)(_one_line)


def _shown(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return _said_before(text) if len(text) <= _LONGEST_REMEMBERED else _quoted(text)


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    if _QUOTABLE.fullmatch(text) and "  " not in text and text.strip() == text:
        return f'"{text}"'
    text = _one_line(text)
    # Quoted, so that a value which a peer chose can not look like the next fact.
    return json.dumps(text) if not text or re.search(r'[ ="]', text) else text


_LONGEST_REMEMBERED = 100
# Most lines are about the devices, addresses and sessions of the lines before.
_said_before = functools.lru_cache(1000)(_quoted)


LOOKS_SECONDS = 3600.0
"""How often those who only look are summed up in the log."""

_MOST_LOOKING = 1000


class Looks:
    """Counts connections that ended without a command: health checks and port scanners, which come all day."""

    def __init__(self, logger: logging.Logger, leg: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._leg = leg
        self._clock = clock
        self._since = clock()
        self._seen: Counter[str] = Counter()

    def count(self, address: str) -> None:
        """Count one; the first after an hour brings the line about that hour."""
        if len(self._seen) < _MOST_LOOKING or address in self._seen:
            self._seen[address] += 1
        if self._clock() - self._since < LOOKS_SECONDS:
            return
        self._since = self._clock()
        seen, self._seen = self._seen, Counter()
        clients = [f"{each} ({times})" for each, times in seen.most_common(10)]
        event(
            self._logger, logging.INFO, "connections without a command", leg=self._leg, connections=seen.total(),
            addresses=len(seen), clients=clients,
        )  # fmt: skip


_OURS = logging.getLogger("legacy_email_proxy")
_observers: dict[logging.Handler, Callable[[Mapping[str, object]], bool]] = {}
"""Handler → whether it wants to see a message's content, by what is bound to the task that has it."""


class Observer(logging.Handler):
    """Takes the events that it knows by their words; each is given to :meth:`take`, from any thread.

    A plugin may log anything, also what is no text, and :meth:`take` may have a mistake. Neither must reach who has
    logged: that is a device's session.
    """

    def take(self, record: logging.LogRecord) -> None:
        """Note what the event tells. ``record.msg`` is a text. It may be called in several threads at once."""
        raise NotImplementedError

    def handle(self, record: logging.LogRecord) -> bool:
        """See :meth:`take`. Without filters and the handler's lock, which cost more than most observers do."""
        if isinstance(record.msg, str):
            try:
                self.take(record)
            except Exception:
                self.handleError(record)
        return True


def observe(
    handler: logging.Handler,
    level: int = logging.INFO,
    wants: Callable[[Mapping[str, object]], bool] = lambda _: True,
) -> None:
    """Give every event from ``level`` on to ``handler`` too. ``LOG_LEVEL`` is only about what is written.

    ``wants`` is asked for a message's lines only, with what is bound to the task: whether they are made at all.

    The history, the figures and the alarms take their facts here, so that they tell the same story as the log. What is
    given to one handler only, because of its level, costs the others nothing.
    """
    handler.setLevel(level)
    _observers[handler] = wants
    _OURS.addHandler(handler)
    _set_level()


def unobserve(handler: logging.Handler) -> None:
    """The opposite of :func:`observe`."""
    _observers.pop(handler, None)
    _OURS.removeHandler(handler)
    _set_level()


def _set_level() -> None:
    written = [handler.level for handler in logging.getLogger().handlers if isinstance(handler, Writer)]
    _OURS.setLevel(min([*written, *(handler.level for handler in _observers)], default=logging.NOTSET))


def configure(level: str, form: str) -> None:
    """Send all logging to standard error. Libraries log from warning on, or everything where the level is ``debug``."""
    writer = Writer()
    writer.setLevel(level.upper())
    writer.setFormatter(KeyValueFormatter() if form == "text" else json_formatter())
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    root.addHandler(writer)
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    # aiosmtpd logs every command at info and content lines at debug: our own lines say it better.
    logging.getLogger("mail.log").setLevel(logging.WARNING)
    _set_level()


def json_formatter() -> logging.Formatter:
    """One JSON object per line: ``time``, ``level``, ``event`` and the event's facts."""
    from pythonjsonlogger.json import JsonFormatter

    class _Formatter(JsonFormatter):
        def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
            log_data["time"] = self.formatTime(record, KeyValueFormatter.default_time_format)
            log_data["level"] = record.levelname.lower()
            log_data["event"] = record.getMessage()
            log_data.update({key: plain(value) for key, value in facts_of(record).items()})
            if record.exc_info:
                log_data["traceback"] = self.formatException(record.exc_info)

    return _Formatter(json_ensure_ascii=False)


def plain(value: object) -> object:
    """The value as JSON can hold it, in one line also for readers that know the line ends of Unicode."""
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (int, float)):
        return value
    text = str(value)
    return text if text.isascii() else _one_line(text)
