"""The agent's process under test, started again like a service; and what it holds: memory, descriptors, rows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A harness that is killed must leave no agent behind.
LAUNCHER = """\
import ctypes, runpy, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
sys.argv[0] = "printago-moonraker"
runpy.run_module("printago_moonraker", run_name="__main__")
"""


@dataclass(frozen=True)
class Sample:
    """One look at a life of the process: `memory` is resident, in kB."""

    life: int
    memory: int
    descriptors: int


class AgentProcess:
    """`deaths` counts its exits that nobody asked for."""

    def __init__(self, config: Path, log: Path) -> None:
        self.log = log
        self.deaths = 0
        self.lives = 0
        self.samples: list[Sample] = []
        self._config = config
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """When it does not run."""
        if self._process is not None:
            if self._process.returncode is None:
                return
            self.deaths += 1
        self.lives += 1
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", LAUNCHER, "run", "-c", str(self._config), cwd=ROOT, env=environment,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal, and wait for that; SIGKILL after 15 s."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is not None:
            self.deaths += 1
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            async with asyncio.timeout(15):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            self.deaths += 1

    def sample(self) -> None:
        """Note what it holds now."""
        if self._process is None or self._process.returncode is not None:
            return
        folder = Path(f"/proc/{self._process.pid}")
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        memory, descriptors = int(status["VmRSS"].split()[0]), len(list((folder / "fd").iterdir()))
        self.samples.append(Sample(self.lives, memory, descriptors))

    def log_since(self, at: int) -> str:
        with self.log.open("rb") as file:
            file.seek(at)
            return file.read().decode(errors="replace")


def rows(database: Path) -> dict[str, int]:
    """How many rows each table has; none when there is no database."""
    if not database.exists():
        return {}
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=2.0)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}


def growth(samples: list[Sample], least: int = 50) -> tuple[float, float] | None:
    """Growth in kB of memory and in descriptors per sample over the longest life, by least squares; None when it was
    too short to tell. Of that life the second half counts: in the first, caches fill.
    """
    lives = {sample.life for sample in samples}
    longest = max(([each for each in samples if each.life == life] for life in lives), key=len, default=[])
    if len(longest) < least:
        return None
    longest = longest[len(longest) // 2 :]
    return _slope([each.memory for each in longest]), _slope([each.descriptors for each in longest])


def _slope(values: list[int]) -> float:
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    over = sum((x - middle) * (value - mean) for x, value in enumerate(values))
    return over / sum((x - middle) ** 2 for x in range(len(values)))
