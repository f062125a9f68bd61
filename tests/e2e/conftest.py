"""One farm a module, brought back to idle before each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.e2e import farm as parts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.e2e.farm import Farm


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_farm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Farm]:
    options = getattr(request.module, "FARM", parts.Options())
    async with parts.farm(tmp_path_factory.mktemp("farm"), options) as farm:
        yield farm


@pytest_asyncio.fixture(loop_scope="module")
async def farm(whole_farm: Farm) -> Farm:
    """An idle, cold, unhomed printer that the agent sees so."""
    await whole_farm.restore()
    return whole_farm


@pytest.fixture(autouse=True)
def shown(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test says to show it has shown: each of its commands was answered, and not with an error.

    Where the test is parametrized, each run shows one of them at least.
    """
    yield
    marker = request.node.get_closest_marker("shows")
    if marker is None:
        return
    answers = [
        each for each in request.node.funcargs["farm"].envelopes if each.get("command") and each["type"] != "error"
    ]
    done = {f"{each['command']['type']}.{each['command']['action']}" for each in answers}
    wanted = set(marker.args)
    holds = wanted & done if hasattr(request.node, "callspec") else wanted <= done
    assert holds, f"it says to show {sorted(wanted)}, but only {sorted(done)} were carried out"
