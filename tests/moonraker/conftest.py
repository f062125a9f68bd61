"""What holds for all tests of this edge."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """No task of a transfer outlives it by more than the loop's next turns."""
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(2):
        while left := [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()]:
            await asyncio.wait(left)
