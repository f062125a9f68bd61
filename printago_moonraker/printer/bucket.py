"""A limit on how often something is told: what raises it may stand in a loop, or in every line of a file."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Bucket:
    """Lets `burst` through at once and `rate` a second in the long run; counts what it keeps back."""

    burst: int
    rate: float
    dropped: int = 0  # since `count` was last asked
    _left: float = field(init=False)
    _since: float | None = None

    def __post_init__(self) -> None:
        self._left = float(self.burst)

    def take(self, now: float) -> bool:
        """Whether one more may pass at `now`, seconds on a monotonic clock; if not, it is counted as dropped."""
        elapsed = 0.0 if self._since is None else max(0.0, now - self._since)
        self._since = now
        self._left = min(float(self.burst), self._left + elapsed * self.rate)
        if self._left < 1.0:
            self.dropped += 1
            return False
        self._left -= 1.0
        return True

    def count(self) -> dict[str, int]:
        """The member `dropped` of the event that passes now, if there is anything to tell in it; counts anew."""
        dropped, self.dropped = self.dropped, 0
        return {"dropped": dropped} if dropped else {}
