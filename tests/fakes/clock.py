"""An event loop whose clock jumps over every wait: an hour of waiting takes no time, and every time is exact."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class ClockLoop(asyncio.SelectorEventLoop):
    """For tests without a socket: with one, time would run away while the peer answers."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__()
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def jump(timeout: float | None) -> Any:
            assert timeout is not None, "everything waits, and nothing will ever happen"
            self.now += max(0.0, timeout)
            return select(0)

        selector.select = jump

    def time(self) -> float:
        return self.now


def run(main: Callable[[ClockLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `main(loop)` to its end, with nothing left behind."""
    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, ClockLoop)
        return runner.run(main(loop))
