"""The long run: `python -m tests.faults N [--seed S]`. Exit code 1 when anything is wrong."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.faults.harness import Run, rig


async def _run(options: argparse.Namespace) -> int:
    def say(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    say(f"seed {options.seed}: python -m tests.faults {options.faults} --seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        async with rig(Path(folder)) as everything:
            account = await Run(everything, options.seed, say).run(options.faults, first=options.first)
    say(str(account))
    if account.problems:
        say(f"seed {options.seed}; bad cycles: {sorted({number for number, _ in account.problems if number >= 0})}")
    return 1 if account.problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("faults", type=int, help="how many faults")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--first", type=int, default=0, help="the cycle to begin with, to run one again")
    return asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
