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
    """The `python` that has Moonraker: of the environment named by PRINTAGO_MOONRAKER_VENV, else of the one in the user's cache folder.

    Makes the latter when it is not there (about 20 s, some 30 packages from PyPI), and says so through `say`. Several processes may call this
    at the same time: one makes it, the others wait. Cancelling is safe: a half-made environment is made anew by the next call.
    Raises AgentError with what to do.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        python = Path(override).expanduser() / "bin" / "python"
        if not python.exists():
            raise AgentError(f"{OVERRIDE} is {override}, but there is no {python}: point it at a virtual environment with moonraker in it")
        return python
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "printago-moonraker"
    home = cache / f"moonraker-{VERSION}"
    python = home / "bin" / "python"
    if not (home / MARK).exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            async with _lock(cache / "moonraker.lock"):
                if not (home / MARK).exists():
                    await _make(home, say)
        except OSError as error:
            raise AgentError(f"cannot make Moonraker's environment in {cache}: {error.strerror}; set XDG_CACHE_HOME to another folder") from error
    return python


async def _make(home: Path, say: Say) -> None:
    say(f"Installing Moonraker {VERSION} from PyPI into {home} (once, about half a minute) ...")
    # Built where it stays, and marked as whole by the last step: a virtual environment's scripts know their own path, so it cannot be renamed.
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
        *command, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
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
