"""One line an event, no secret in it, nothing that a peer could forge."""

import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from printago_moonraker import log
from printago_moonraker.errors import ConfigError
from printago_moonraker.log import printable

logger = logging.getLogger("printago_moonraker.session")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process's logging as it was."""
    names = (None, "aiohttp", "asyncio", "paho", "websockets")
    levels = {name: logging.getLogger(name).level for name in names}
    monkeypatch.setattr(log, "_secrets", ())
    yield
    log.teardown()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


# ---- printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain — Ünïcode 漢字", "plain — Ünïcode 漢字"),
        ("two\r\nlines\tand\x0bmore", "two lines and more"),
        ("  much   space \n", "much space"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07", "red ]0;title"),
        ("nul\x00 c1\x9b2J del\x7f", "nul c1 2J del"),
        ("gpj.\u202egnp.exe", "gpj.gnp.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("separators\u2028and\u2029", "separators and"),
        ("half \ud83d character", "half \ufffd character"),
        ("", ""),
    ],
)
def test_printable_is_one_clean_line(text: str, shown: str) -> None:
    """Control characters, escape sequences and turned directions never reach a terminal or a file."""
    assert printable(text) == shown
    printable(text).encode()


def test_printable_cuts() -> None:
    """A text that is too long ends in …, within the limit; one that just fits stays whole."""
    assert printable("x" * 200) == "x" * 200
    assert printable("x" * 201) == "x" * 199 + "…"
    assert printable("abcdef", 4) == "abc…"
    assert printable("a" + " " * 10_000 + "b", 10) == "a…"
    assert len(printable("x" * 10_000_000)) == 200


# ---- lines


def test_a_record_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A new line in a message makes no new event in the log."""
    log.setup("info", None)
    logger.warning("first\nWARNING forged: %s", "second\x1b[2J")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\S+[+-]\d\d:\d\d WARNING session: first \| WARNING forged: second ", lines[0] + " "
    )


def test_a_traceback_stays_with_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception's traceback is folded into the line of its event."""
    log.setup("info", None)
    try:
        raise KeyError("x")
    except KeyError:
        logger.exception("it broke")
    (line,) = capsys.readouterr().err.splitlines()
    assert "it broke | Traceback (most recent call last): |" in line
    assert line.endswith("| KeyError: 'x'")


def test_journald_gets_priorities_and_no_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where journald reads standard error, a line begins with its priority, and the time is journald's."""
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        log.setup("debug", None)
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            logger.log(level, "said")
        log.teardown()
        stream.seek(0)
        assert stream.read().splitlines() == [f"<{number}>session: said" for number in (7, 6, 4, 3, 2)]


def test_an_inherited_journal_stream_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """JOURNAL_STREAM counts only when it names this process's own standard error."""
    monkeypatch.setenv("JOURNAL_STREAM", "8:12345")
    log.setup("info", None)
    logger.info("said")
    assert not capsys.readouterr().err.startswith("<")


def test_libraries_speak_from_warning_on(capsys: pytest.CaptureFixture[str]) -> None:
    """A library's chatter is for debug only; its warnings always come."""
    log.setup("info", None)
    logging.getLogger("websockets.client").info("chatter")
    logging.getLogger("asyncio").warning("slow callback")
    log.setup("debug", None)
    logging.getLogger("websockets.client").debug("detail")
    shown = capsys.readouterr().err
    assert "chatter" not in shown
    assert "slow callback" in shown
    assert "detail" in shown


def test_a_second_setup_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Setting up again doubles no line."""
    log.setup("info", None)
    log.setup("info", None)
    logger.info("once")
    assert len(capsys.readouterr().err.splitlines()) == 1


# ---- secrets


def test_secrets_never_show(capsys: pytest.CaptureFixture[str]) -> None:
    """A registered secret is replaced in messages, arguments and tracebacks, of this program and of libraries."""
    log.setup("debug", None)
    log.redact("hunter2/key'\\")
    logger.info("message hunter2/key'\\ and %s", {"password": "hunter2/key'\\"})
    logging.getLogger("websockets.client").debug("> X-Api-Key: %s", "hunter2/key'\\")
    logger.info("https://x.example/?key=%s", "hunter2%2Fkey%27%5C")
    try:
        raise ValueError("refused: hunter2/key'\\")
    except ValueError:
        logger.exception("login")
    shown = capsys.readouterr().err
    assert "hunter2" not in shown
    assert shown.count("***") >= 5


def test_a_longer_secret_goes_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Where one secret begins like another, nothing is left of the longer."""
    log.setup("info", None)
    log.redact("abc")
    log.redact("abcdef")
    logger.info("x abcdef y abc z")
    assert "x *** y *** z" in capsys.readouterr().err


def test_an_empty_secret_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty secret does not turn every line into stars."""
    log.setup("info", None)
    log.redact("")
    logger.info("said")
    assert "***" not in capsys.readouterr().err


# ---- the file


def test_the_file_gets_the_same_lines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log file has what standard error has, in a folder that is made, also a text that no encoding takes."""
    path = tmp_path / "logs" / "printago.log"
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's would put half a character into its report
    log.setup("info", path)
    log.redact("hunter2")
    logger.info("hunter2 \ud83d ü")
    log.teardown()
    text = path.read_text("utf-8")
    assert text.endswith("INFO session: *** \ufffd ü\n")
    assert len(text.splitlines()) == 1


def test_the_file_is_bounded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file rolls over and only three are kept, so that a log never fills an SD card."""
    monkeypatch.setattr(log, "_FILE_BYTES", 1000)
    log.setup("info", tmp_path / "printago.log")
    for number in range(100):
        logger.info("line %d %s", number, "x" * 50)
    log.teardown()
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["printago.log", "printago.log.1", "printago.log.2"]
    assert all(file.stat().st_size <= 1000 for file in tmp_path.iterdir())


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """A log file that cannot be opened is one clear line, and nothing is set up."""
    (tmp_path / "file").touch()
    before = logging.getLogger().handlers[:]
    with pytest.raises(
        ConfigError, match=r"^\[printago\] log_path: .*/file/printago.log cannot be written \(.*\); choose"
    ):
        log.setup("info", tmp_path / "file" / "printago.log")
    assert logging.getLogger().handlers == before


def test_a_full_disk_costs_one_line_a_spell(capsys: pytest.CaptureFixture[str]) -> None:
    """On a full disk the events still reach standard error, with one remark and no traceback."""
    log.setup("info", Path("/dev/full"))
    for _ in range(3):
        logger.info("said")
    log.teardown()
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.endswith("session: said")]) == 3
    assert [line for line in lines if "No space left" in line] == [line for line in lines if "session" not in line]
    assert len(lines) == 4
