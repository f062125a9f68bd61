"""Moonraker in a virtual environment of its own (its pins are not ours): found, or made once and kept."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from printago_moonraker.errors import AgentError

VERSION = "0.11.0"
OVERRIDE = "PRINTAGO_MOONRAKER_VENV"
MARK = "complete"  # a file that only a whole environment has
LOCK_POLL = 0.2  # s

Say = Callable[[str], None]


async def find_or_make(say: Say) -> Path:
    """The `python` that has Moonraker: in the environment that PRINTAGO_MOONRAKER_VENV names, else in the user's cache.

    Makes the latter when it is not there (about 20 s, some 30 packages from PyPI), and says so through `say`. Several
    processes may call this at the same time: one makes it, the others wait. Cancelling is safe: a half-made environment
    is made anew by the next call.
    Raises AgentError with what to do.
    """
    if override := os.environ.get(OVERRIDE):
        return _named(override)
    home = _home()
    if not (home / MARK).exists():
        try:
            home.parent.mkdir(parents=True, exist_ok=True)
            async with _lock(home.with_name(f"{home.name}.lock")):
                if not (home / MARK).exists():
                    await _make(home, say)
        except OSError as error:
            remedy = "set XDG_CACHE_HOME to another folder"
            raise AgentError(f"cannot make Moonraker's environment {home}: {error.strerror}; {remedy}") from error
    return home / "bin" / "python"


def _home() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "printago-moonraker" / f"moonraker-{VERSION}"


def _named(override: str) -> Path:
    python = Path(override).expanduser() / "bin" / "python"
    if not python.exists():
        raise AgentError(f"{OVERRIDE} is {override}, but there is no {python}: name one that has moonraker")
    return python


async def _make(home: Path, say: Say) -> None:
    say(f"Installing Moonraker {VERSION} from PyPI into {home} (once, about half a minute) ...")
    # Built where it stays, for its scripts know their own path: no renaming. The last step marks it as whole.
    await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
    await _step([sys.executable, "-m", "venv", str(home)], "install python3-venv (Debian: apt install python3-venv)")
    pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    await _step([*pip, f"moonraker=={VERSION}"], "check that this machine reaches pypi.org")
    (home / MARK).touch()
    say(f"Moonraker {VERSION} is installed.")


async def _step(command: list[str], remedy: str) -> None:
    # Not PYTHONPATH and the like of the calling environment: what is installed must stand alone.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        last = output.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise AgentError(f"cannot install Moonraker: {last[0]}; {remedy}")


@contextlib.asynccontextmanager
async def _lock(path: Path) -> AsyncIterator[None]:
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(LOCK_POLL)
        yield
