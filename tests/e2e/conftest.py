"""One farm a module, brought back to idle before each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from tests.e2e import farm as parts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

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
