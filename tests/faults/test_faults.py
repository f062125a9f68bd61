"""The short run of the fault harness; the long one is `make faults N=1000`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.faults.harness import Run, rig

if TYPE_CHECKING:
    from pathlib import Path

FAULTS = 11  # each about 3 s


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, random.SystemRandom().randrange(10**6)], ids=["fixed", "random"])
async def test_whole_prints_survive_kills_and_bad_networks(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is killed and however the network fails: nothing twice, nothing late, nothing lost, nothing untrue."""
    lines: list[str] = []
    folder: Path = tmp_path_factory.mktemp("f")
    async with rig(folder) as everything:
        account = await Run(everything, seed, lines.append).run(FAULTS)
    report = "\n".join([f"seed {seed}: python -m tests.faults {FAULTS} --seed {seed}", *lines, str(account)])
    assert not account.problems, report
