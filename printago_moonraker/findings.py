"""What `doctor` has found, and how it is shown to a person and to a program."""

from __future__ import annotations

import asyncio
import json
import logging
import platform
import textwrap
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Final, TypeVar

from printago_moonraker import __version__, program
from printago_moonraker.log import hidden, printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

T = TypeVar("T")

logger = logging.getLogger(__name__)

_SIGNS: Final = str.maketrans({"✓": "+", "✗": "x", "–": "-", "→": ">"})

_NO_BREAK: Final = "\u00a0"  # no blank to textwrap

STEP: Final = 20.0  # s for one check: what takes longer does not work either


class Outcome(StrEnum):
    OK = "ok"
    WARNING = "warning"  # it works, and should be mended
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Check:
    """One finding: what was seen, and what to do. `printer` is "" for what concerns all of them."""

    name: str
    outcome: Outcome
    saw: str
    todo: str = ""
    printer: str = ""


class Failed(Exception):
    """A check's condition does not hold."""

    def __init__(self, saw: str, todo: str) -> None:
        super().__init__(saw)
        self.saw, self.todo = saw, todo


class Report:
    """The findings, in the order of `add`; one owner a chain of checks."""

    def __init__(self, printer: str = "") -> None:
        self.checks: list[Check] = []
        self._printer = printer

    async def make(
        self, name: str, check: Awaitable[tuple[T, str]], then: str = "", limit: float | None = None
    ) -> T | None:
        """Make one check, which gives its result and what was seen; None when it failed. `then`: names of those that
        are not made in that case; `limit` in s.
        """
        limit = STEP if limit is None else limit
        try:
            async with asyncio.timeout(limit):
                result, saw = await check
        except Failed as failed:
            self.add(name, Outcome.FAILED, failed.saw, failed.todo)
        except TimeoutError:
            self.add(name, Outcome.FAILED, f"no answer within {limit:.0f} s", "Check the network in between.")
        except Exception as error:
            # A peer can answer whatever it likes. What it has broken is this check, and not those that went well.
            logger.debug("%s: a defect in the check, or an answer that nobody expects", name, exc_info=True)
            saw = f"an answer that cannot be understood ({type(error).__name__})"
            self.add(name, Outcome.FAILED, saw, "Update the program that answers, or this one; else report it.")
        else:
            self.add(name, Outcome.OK, saw)
            return result
        for each in filter(None, then.split(", ")):
            self.add(each, Outcome.NOT_CHECKED, f"needs {name}")
        return None

    def add(self, name: str, outcome: Outcome, saw: str, todo: str = "") -> None:
        saw, todo = (printable(hidden(text), 500) for text in (saw, todo))
        self.checks.append(Check(name, outcome, saw, todo, self._printer))


def exit_code(checks: Sequence[Check]) -> int:
    """0 when all is well; a warning is no failure."""
    return int(any(check.outcome in (Outcome.FAILED, Outcome.NOT_CHECKED) for check in checks))


def as_json(checks: Sequence[Check]) -> str:
    """For programs: the same findings."""
    members = {
        "ok": exit_code(checks) == 0,
        "version": __version__,
        "python": platform.python_version(),
        "checks": [asdict(check) for check in checks],
    }
    return json.dumps(members, indent=2, ensure_ascii=False)


def as_text(checks: Sequence[Check], width: int = 100) -> str:
    """For a person, in lines of at most `width`; one block for what is common, one a printer."""
    signs = {Outcome.OK: "✓", Outcome.WARNING: "!", Outcome.FAILED: "✗", Outcome.NOT_CHECKED: "–"}
    column = max(len(check.name) for check in checks)
    lines = []
    for printer, group in groupby(checks, key=lambda check: check.printer):
        if printer:
            lines.append(printer)
        indent = "  " if printer else ""
        for check in group:
            head = f"{indent}{signs[check.outcome]} {check.name:<{column}}  "
            known = "not checked: " if check.outcome is Outcome.NOT_CHECKED else ""
            lines += _wrapped(head, known + check.saw, width)
            if check.todo:
                lines += _wrapped(" " * (len(head) - 2) + "→ ", check.todo, width)
    return "\n".join([*lines, "", _summary(checks)])


def _summary(checks: Sequence[Check]) -> str:
    failed, warnings = (sum(check.outcome is each for check in checks) for each in (Outcome.FAILED, Outcome.WARNING))
    if failed:
        return f"{failed} of {len(checks)} checks failed."
    return f"All works; {warnings} thing{'s' if warnings > 1 else ''} should be mended." if warnings else "All is well."


def plain(text: str, encoding: str | None) -> str:
    """`text` as a terminal of that encoding can show it."""
    try:
        text.encode(encoding or "ascii")
    except UnicodeEncodeError:
        return text.translate(_SIGNS).encode(encoding or "ascii", "replace").decode(encoding or "ascii")
    return text


def _wrapped(head: str, text: str, width: int) -> list[str]:
    """Whatever a person may paste, a path or a command line, stays in one piece, even if it is longer."""
    command = program.command("pair")
    lines = textwrap.wrap(
        text.replace(command, command.replace(" ", _NO_BREAK)),
        max(width, 60),
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [line.replace(_NO_BREAK, " ") for line in lines]
