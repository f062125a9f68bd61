from __future__ import annotations

import io
from typing import TYPE_CHECKING

from printago_moonraker.demo.screen import Screen, bar

if TYPE_CHECKING:
    import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(text: str) -> list[str]:
    """What a terminal shows after `text`: cursor up and clear to the end are all it has to know."""
    lines: list[str] = [""]
    for part in text.replace("\x1b[J", "").split("\n"):
        while part.startswith("\x1b["):
            up, _, part = part.removeprefix("\x1b[").partition("A")
            del lines[len(lines) - 1 - int(up) :]
            lines.append("")
        lines[-1] = part
        lines.append("")
    return [line for line in lines if line]


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 60, lines: int = 10) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(lines))
    return Terminal()


def test_live_lines_stay_below_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, a live line is overwritten by the next one, and each line said goes above it."""
    out = terminal(monkeypatch)
    live = Screen(out)
    live.show("b", "20 %")
    live.show("a", "10 %")
    live.say("paused", "a", "✓")
    live.show("a", "11 %")
    lines = shown(out.getvalue())
    assert [line[10:] for line in lines] == ["a         ✓ paused", "a           11 %", "b           20 %"]
    live.hide("a")
    assert len(shown(out.getvalue())) == 2


def test_a_live_line_fits_into_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A live line is cut before it would wrap, and no more are drawn than can be overwritten."""
    out = terminal(monkeypatch, columns=30, lines=4)
    live = Screen(out)
    for number in range(6):
        live.show(f"p{number}", "x" * 100)
    lines = shown(out.getvalue())
    assert len(lines) == 3
    assert {len(line) for line in lines} == {29}


def test_a_pipe_gets_a_live_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be overwritten, a live line comes once in QUIET seconds, and nothing but text."""
    now = 100.0
    monkeypatch.setattr("printago_moonraker.demo.screen.time.monotonic", lambda: now)
    out = io.StringIO()
    live = Screen(out)
    for percent in range(20):
        live.show("a", bar(percent))
        now += 1.0
    lines = out.getvalue().splitlines()
    assert [line.split()[-2:] for line in lines] == [["5", "%"], ["10", "%"], ["15", "%"]]
    assert lines[0].startswith("   5.0 s  a ")
    assert "\x1b" not in out.getvalue()


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR and TERM=dumb are obeyed."""
    for name, value, coloured in (("NO_COLOR", None, True), ("NO_COLOR", "1", False), ("TERM", "dumb", False)):
        out = terminal(monkeypatch)
        monkeypatch.delenv("NO_COLOR")
        if value:
            monkeypatch.setenv(name, value)
        Screen(out).say("done", mark="✓")
        assert ("\x1b[32m✓" in out.getvalue()) is coloured


def test_an_old_encoding_does_not_break_it() -> None:
    """What the output's encoding lacks becomes a question mark."""
    buffer = io.BytesIO()
    out = io.TextIOWrapper(buffer, encoding="latin-1")
    Screen(out).say("60 °C", mark="✓")
    assert "? 60 °C" in buffer.getvalue().decode("latin-1")


def test_the_bar_is_always_as_long() -> None:
    """The bar takes any percentage, none, and what is out of range."""
    assert {len(bar(percent)) for percent in (None, -5.0, 0.0, 31.4, 99.9, 100.0, 120.0)} == {len(bar(50.0))}
    assert bar(50.0) == "██████████░░░░░░░░░░  50 %"
