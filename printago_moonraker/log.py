"""What the log looks like: one line an event, no secret in it, nothing in it that a peer could forge.

The formatter, not the callers, keeps the promise: whatever reaches a handler (message, arguments, traceback, the
records of a library) is redacted and made one line there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import urllib.parse
from datetime import datetime
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING

from printago_moonraker.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

# A terminal's escape sequences as a whole; C0 and C1 with the new lines; then what shows nothing or turns the direction
# of the text. Surrogates are half a character: no file could store them.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_INVISIBLE = re.compile(
    r"[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_SURROGATE = re.compile(r"[\ud800-\udfff]")

# sd-daemon(3): journald reads the priority from the start of the line.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))
_LIBRARIES = ("aiohttp", "asyncio", "paho", "websockets")
_FILE_BYTES = 1_000_000
FILES = 3

_secrets: tuple[str, ...] = ()
_handlers: list[logging.Handler] = []


def _clean(text: str) -> str:
    return _SURROGATE.sub("\ufffd", _INVISIBLE.sub("", _CONTROL.sub(" ", text)))


def printable(text: str, limit: int = 200) -> str:
    """A peer's text, fit for a log line or a sentence: one line, no control characters, at most `limit` characters.

    A cut end is shown by `…`.
    """
    # Cut first: a peer may send megabytes.
    line = " ".join(_clean(text[: 4 * limit]).split())
    if len(line) <= limit and len(text) <= 4 * limit:
        return line
    return line[: limit - 1].rstrip() + "…"


def redact(secret: str) -> None:
    """From now on `***` stands for `secret` in every log line, also where it is percent-encoded or escaped by repr().

    An empty secret changes nothing.
    """
    global _secrets  # noqa: PLW0603 - the log is one for the process, and so is what must not be in it
    if secret:
        forms = {secret, urllib.parse.quote(secret, safe=""), repr(secret)[1:-1]}
        # The longest first, so that a secret which begins like another leaves no tail behind.
        _secrets = tuple(sorted(forms.union(_secrets), key=len, reverse=True))


def hidden(text: str) -> str:
    """`text` with `***` in the place of every secret that was named to `redact`."""
    for secret in _secrets:
        text = text.replace(secret, "***")
    return text


class LineFormatter(logging.Formatter):
    """One record, one line: `time LEVEL module: message`; for journald, which has its own clock, `<6>module: message`.

    The lines of a traceback are joined with ` | `: what belongs together stays together in grep and in the journal.
    """

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = hidden(super().format(record))
        line = " | ".join(_clean(part).rstrip() for part in text.splitlines() if part.strip())
        name = record.name.removeprefix("printago_moonraker.")
        if self._journal:
            priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
            return f"<{priority}>{name}: {line}"
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        return f"{time} {record.levelname} {name}: {line}"


class _LogFile(RotatingFileHandler):
    """A full disk costs the file its lines, and standard error one line a spell, not a traceback for each record."""

    _failures = 0

    def emit(self, record: logging.LogRecord) -> None:
        before = self._failures
        super().emit(record)
        if self._failures == before:
            self._failures = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's signature
        self._failures += 1
        if self._failures == 1:
            sys.stderr.write(f"{self.baseFilename}: {sys.exc_info()[1]}; the log goes on here only\n")


def setup(level: str, log_path: Path | None) -> None:
    """Log to standard error and, when `log_path` is given, to that file (1 MB, three files).

    `level` is debug, info, warning or error; the libraries speak from warning on, unless it is debug. A second call
    replaces the first. Raises ConfigError when the file cannot be opened.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setFormatter(LineFormatter(journal=_is_journal()))
    if log_path is not None:
        handlers.append(_open(log_path))
    teardown()
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in handlers:
        root.addHandler(handler)
    _handlers.extend(handlers)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.NOTSET if level == "debug" else logging.WARNING)


def teardown() -> None:
    """Take back what `setup` added, and close the file."""
    while _handlers:
        handler = _handlers.pop()
        logging.getLogger().removeHandler(handler)
        with contextlib.suppress(OSError):  # what a full disk did not take is lost
            handler.close()


def _open(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, maxBytes=_FILE_BYTES, backupCount=FILES - 1, encoding="utf-8")
    except OSError as error:
        why = f"cannot be written ({error.strerror})"
        raise ConfigError(f"[printago] log_path: {path} {why}; choose another, or leave it out.") from error
    handler.setFormatter(LineFormatter())
    return handler


def _is_journal() -> bool:
    # JOURNAL_STREAM is inherited: only when it names our own standard error does journald read it (systemd.exec(5)).
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
