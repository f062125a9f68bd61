"""`printago.cfg` as text: where it is, and how its lines become sections and options."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Klipper's own (klippy/configfile.py).
COMMENTS: Final = ("#", ";")
DELIMITERS: Final = (":", "=")
NAME: Final = "config/printago.cfg"
_UNCLOSED: Final = "line {} begins a section, and does not end it; write it like [printago]"


def default_path() -> Path:
    """The file that is read where none is named: ~/printer_data/config/printago.cfg, or that of the first
    ~/printer_*_data that has one. install.sh writes it by the same rule.

    Raises ValueError for a user without a home folder.
    """
    usual = _home() / "printer_data" / NAME
    return next((file for file in (usual, *(each / NAME for each in instances())) if file.is_file()), usual)


def instances() -> list[Path]:
    """The data folders of a host's further printers, KIAUH's among them. Raises ValueError as above."""
    return sorted(each for each in _home().glob("printer_*_data") if each.is_dir())


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise ValueError("this user has no home folder; name the configuration with -c") from error


def sections(file: Path, *, required: bool) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each section's name and options. Raises ValueError with what is wrong and what to do; a missing file has no
    sections, unless it is `required`.
    """
    # default_section: [DEFAULT] is a section like any other here, that is to say an unknown one.
    parser = configparser.ConfigParser(
        delimiters=DELIMITERS,
        comment_prefixes=COMMENTS,
        inline_comment_prefixes=COMMENTS,
        interpolation=None,
        default_section="",
    )
    try:
        with file.open(encoding="utf-8-sig") as lines:
            parser.read_file(lines)
    except FileNotFoundError as error:
        if required:
            raise ValueError("there is no such file; create it (it may be empty) or leave out -c") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read ({reason(error)}); it must be a text file that this user may read") from error
    except configparser.Error as error:
        raise ValueError(_complaint(error)) from error
    yield from parser.items()


def _complaint(error: configparser.Error) -> str:
    if isinstance(error, configparser.DuplicateOptionError):
        return f"[{error.section}] {error.option}: given again in line {error.lineno}; keep one"
    if isinstance(error, configparser.DuplicateSectionError):
        return f"[{error.section}]: begins again in line {error.lineno}; make one section of the two"
    if isinstance(error, configparser.MissingSectionHeaderError):
        if is_unclosed(error.line):
            return _UNCLOSED.format(error.lineno)
        return f"line {error.lineno} comes before any section; begin with one, like [printago]"
    assert isinstance(error, configparser.ParsingError)
    number, line = error.errors[0]
    # The line comes as repr() has it. It is not shown: it may be a secret's second line.
    return (
        _UNCLOSED.format(number)
        if is_unclosed(line[1:])
        else f"line {number} is not understood; write it as name: value"
    )


def is_unclosed(line: str) -> bool:
    """Whether a line that is none of a section was meant as one."""
    return re.match(r"\s*\[[^\]]*$", line) is not None


def reason(error: OSError | UnicodeDecodeError) -> str:
    """Why a file cannot be read, in few words."""
    return error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8"
