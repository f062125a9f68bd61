"""Who waits for whom, and how many may."""

from __future__ import annotations

import asyncio

import pytest

from printago_moonraker.commands.lanes import MAX_WAITING, Lane, Lanes
from printago_moonraker.errors import Overloaded


class Traffic:
    """Commands that hold their lane until told to end; `order` is who got a turn."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self.order: list[str] = []
        self.go = asyncio.Event()
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def arrive(self, name: str, lane: Lane, *, reserve: bool = True) -> None:
        if reserve:
            self.lanes.reserve(lane)
        self.tasks[name] = asyncio.create_task(self._live(name, lane, reserve))

    async def _live(self, name: str, lane: Lane, reserved: bool) -> None:
        async with self.lanes.turn(lane, reserved=reserved):
            self.order.append(name)
            await self.go.wait()

    async def settled(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def finish(self) -> None:
        self.go.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def test_first_come_first_served() -> None:
    """One after the other, in the order received."""
    traffic = Traffic()
    for name in "abcdef":
        traffic.arrive(name, Lane.ORDERED)
    await traffic.settled()
    assert traffic.order == ["a"]
    await traffic.finish()
    assert traffic.order == list("abcdef")


async def test_lanes_run_beside_each_other() -> None:
    """A download holds no move up, and what runs beside waits for nothing."""
    traffic = Traffic()
    for name, lane in (("move", Lane.ORDERED), ("file", Lane.TRANSFER), ("x", Lane.BESIDE), ("y", Lane.BESIDE)):
        traffic.arrive(name, lane)
    await traffic.settled()
    assert traffic.order == ["move", "file", "x", "y"]
    await traffic.finish()


@pytest.mark.parametrize("burst", [True, False])
async def test_64_wait_and_the_next_is_refused(burst: bool) -> None:
    """One has its turn, 64 wait, in a burst or not; what needs no lane, or a free one, is taken all the same."""
    traffic = Traffic()
    for number in range(1 + MAX_WAITING):
        traffic.arrive(str(number), Lane.ORDERED)
        if not burst:
            await traffic.settled()
    assert traffic.lanes.waiting == MAX_WAITING == 64
    with pytest.raises(Overloaded):
        traffic.lanes.reserve(Lane.ORDERED)
    traffic.lanes.reserve(Lane.BESIDE)
    traffic.arrive("file", Lane.TRANSFER)
    with pytest.raises(Overloaded):
        traffic.lanes.reserve(Lane.TRANSFER)
    await traffic.finish()
    assert traffic.lanes.waiting == 0
    traffic.arrive("later", Lane.ORDERED)
    await traffic.finish()


async def test_who_gives_up_frees_the_place() -> None:
    """A cancelled command neither blocks the lane nor counts."""
    traffic = Traffic()
    for name in "abc":
        traffic.arrive(name, Lane.ORDERED)
    await traffic.settled()
    for name in "ab":
        traffic.tasks[name].cancel()
    await traffic.settled()
    assert (traffic.order, traffic.lanes.waiting) == (["a", "c"], 0)
    await traffic.finish()


async def test_a_turn_without_a_reservation_counts_too() -> None:
    """`start_print_bbl` queues up for the order only when its file is there."""
    traffic = Traffic()
    traffic.arrive("a", Lane.ORDERED)
    traffic.arrive("b", Lane.ORDERED, reserve=False)
    await traffic.settled()
    assert traffic.lanes.waiting == 1
    await traffic.finish()
    assert (traffic.order, traffic.lanes.waiting) == (["a", "b"], 0)
