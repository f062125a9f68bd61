"""The long run: `python -m tests.faults N [--seed S] [--jobs J]`. Exit code 1 when anything is wrong.

Most of a cycle is waiting, so several rigs run side by side, each a process of its own with a seed of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.faults.account import Account
from tests.faults.harness import Run, rig


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _run(options: argparse.Namespace) -> Account:
    """One rig, in this process."""
    _say(f"seed {options.seed}: python -m tests.faults {options.faults} --seed {options.seed} --jobs 1")
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        async with rig(Path(folder)) as everything:
            return await Run(everything, options.seed, _say).run(options.faults, first=options.first)


async def _run_many(options: argparse.Namespace) -> Account:
    """Several rigs: the sum of their accounts. One that does not come to its end is a problem of its own."""
    account = Account()
    share = -(-options.faults // options.jobs)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        paths = [Path(folder) / f"{number}.json" for number in range(options.jobs)]
        async with asyncio.TaskGroup() as tasks:
            for number, path in enumerate(paths):
                tasks.create_task(_follow(number, share, options.seed + number, path))
        for number, path in enumerate(paths):
            if path.exists():
                account.merge(f"[{number}]", Account.from_json(json.loads(path.read_text())))
            else:
                account.add_problem("runs cut short", 1, f"rig {number}, seed {options.seed + number}")
    return account


async def _follow(number: int, faults: int, seed: int, path: Path) -> None:
    # Moonrakers that share a folder for temporary files mix up what they receive in the same second.
    temporary = path.with_suffix("")
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = ["-m", "tests.faults", str(faults), "--seed", str(seed), "--jobs", "1", "--account", str(path)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )  # fmt: skip
    assert process.stdout is not None
    async for line in process.stdout:
        _say(f"[{number}] {line.decode(errors='replace').rstrip()}")
    await process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("faults", type=int, help="how many faults, in all")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the first rig")
    parser.add_argument("--jobs", type=int, default=4, help="how many rigs side by side")
    parser.add_argument("--first", type=int, default=0, help="with --jobs 1: the cycle to begin with, to run one again")
    parser.add_argument("--account", type=Path, help="with --jobs 1: a file for the sums, as JSON")
    options = parser.parse_args()
    account = asyncio.run(_run(options) if options.jobs == 1 else _run_many(options))
    if options.account:
        options.account.write_text(json.dumps(asdict(account)))
    else:
        _say(str(account))
    return 1 if account.problems else 0


if __name__ == "__main__":
    sys.exit(main())
