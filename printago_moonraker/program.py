"""How this program was called: what it tells a person to type must work when it is pasted."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from printago_moonraker import config_file

NAME: Final = "printago-moonraker"

_named: Path | None = None


def called_with(config: Path | None) -> None:
    """The file of this process's `-c`; None: the default one."""
    global _named  # noqa: PLW0603 - a process is called once
    _named = config


def command(words: str) -> str:
    """The command line that runs `words` (`pair`, say) as this process was run: the same program, the same file."""
    parts = [_program(), words]
    if _named is not None and not _is_default(_named):
        parts.append(f"-c {shlex.quote(str(_absolute(_named)))}")
    return " ".join(parts)


def _program() -> str:
    called = Path(sys.argv[0])
    if called.name == NAME:
        path = _absolute(called)
        found = shutil.which(NAME)
        # Hardly ever: install.sh puts nothing into a folder of PATH.
        return NAME if found and Path(found) == path else shlex.quote(str(path))
    if called.parts[-2:] == ("printago_moonraker", "__main__.py"):
        return f"{shlex.quote(sys.executable)} -m printago_moonraker"
    return NAME


def _is_default(path: Path) -> bool:
    try:
        return path == config_file.default_path()
    except (OSError, ValueError):  # no home folder, or one that this user may not look into
        return False


def _absolute(path: Path) -> Path:
    try:
        return path.absolute()
    except OSError:  # the current folder was deleted
        return path
