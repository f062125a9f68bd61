"""How long to wait before trying again: exponential, with full jitter, for ever."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Waits between attempts, in seconds.

    Full jitter spreads a farm's hosts after an outage of the broker; the floor keeps even the luckiest draw from
    spinning. The exponent is capped because 2.0 ** 1024 overflows after a night without network.
    """

    base: float = 1.0
    cap: float = 60.0
    floor: float = 0.1
    random: random.Random = field(default_factory=random.Random, repr=False)
    failures: int = 0

    def next(self) -> float:
        """The next wait in seconds, between `floor` and the growing ceiling."""
        ceiling = min(self.cap, self.base * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return max(self.floor, self.random.uniform(0.0, ceiling))

    def reset(self) -> None:
        """Call this when a connection has proved itself, not when it opened: a peer may accept and then drop."""
        self.failures = 0
