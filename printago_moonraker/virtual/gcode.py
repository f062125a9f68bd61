"""G-code as Klipper reads it: one line in, one `Command` out.

Klipper Documentation: G-Codes, Command_Templates.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

NAME = re.compile(r"\s*(?:[Nn]\d+\s*)?([A-Za-z]\d+(?:\.\d+)?(?![A-Za-z0-9_]*_)|[A-Za-z_][A-Za-z0-9_]*)")
TRADITIONAL = re.compile(r"[A-Z]\d+(?:\.\d+)?\Z")
LETTER = re.compile(r"([A-Z_]+|\*)")
RAW = frozenset({"M23", "M117", "M118"})  # the rest of these lines is text, not parameters


class KlipperError(Exception):
    """A command that Klipper refuses; `str(error)` is Klipper's own text."""


@dataclass(frozen=True)
class Command:
    """One parsed line. Parameter names are upper case, values are text."""

    name: str
    params: dict[str, str] = field(default_factory=dict)
    line: str = ""
    raw: str = ""

    def get(self, name: str, default: str | None = None) -> str:
        """A text parameter; raises Klipper's "missing" error when it is absent and there is no default."""
        value = self.params.get(name, default)
        if value is None:
            raise KlipperError(f"Error on '{self.line}': missing {name}")
        return value

    def get_float(
        self, name: str, default: float | None = None, minimum: float | None = None, maximum: float | None = None
    ) -> float:
        """A number within its limits, else Klipper's error for it."""
        text = self.get(name, None if default is None else str(default))
        try:
            value = float(text)
        except ValueError:
            raise KlipperError(f"Error on '{self.line}': unable to parse {text}") from None
        if minimum is not None and value < minimum:
            raise KlipperError(f"Error on '{self.line}': {name} must have minimum of {minimum}")
        if maximum is not None and value > maximum:
            raise KlipperError(f"Error on '{self.line}': {name} must have maximum of {maximum}")
        return value

    def get_int(self, name: str, default: int | None = None) -> int:
        """A whole number, else Klipper's error for it."""
        text = self.get(name, None if default is None else str(default))
        try:
            return int(text)
        except ValueError:
            raise KlipperError(f"Error on '{self.line}': unable to parse {text}") from None


def parse(line: str) -> Command | None:
    """The command in a line, or None for a blank line or a comment. Raises KlipperError for broken quoting."""
    line = line.strip()
    head = NAME.match(line)
    if head is None:
        return None
    name = head[1].upper()
    rest = line[head.end() :]
    raw = rest.strip()
    if name in RAW:
        return Command(name, line=line, raw=raw)
    if TRADITIONAL.match(name):
        return Command(name, _letters(rest), line, raw)
    return Command(name, _assignments(rest, line), line, raw)


def _letters(rest: str) -> dict[str, str]:
    """`X10 F600` -> X: 10, F: 600. What makes no sense is taken as it comes: Klipper ignores `Xabc` too."""
    parts = LETTER.split(rest.partition(";")[0].upper())
    return {parts[i]: parts[i + 1].strip() for i in range(1, len(parts) - 1, 2)}


def _assignments(rest: str, line: str) -> dict[str, str]:
    """`HEATER=chamber TARGET=40` with shell-style quotes."""
    words = shlex.shlex(rest, posix=True)
    words.whitespace_split = True
    words.commenters = "#;"
    try:
        pairs = [word.partition("=") for word in words]
    except ValueError:  # a quote without its other half
        pairs = [("", "", "")]
    if not all(separator for _, separator, _ in pairs):
        raise KlipperError(f"Malformed command '{line}'")
    return {key.upper(): value for key, _, value in pairs}
