"""How long to wait before trying again: exponential, with full jitter, for ever."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Waits between attempts, in seconds.

    Full jitter spreads a farm's hosts after an outage of the broker; the floor keeps even the luckiest draw from
    spinning. The exponent is capped because 2.0 ** 1024 overflows after a night without network. What will not pass by
    itself is tried as often as anything at first, and then ever more rarely: a peer that says no is not to be hammered.
    """

    base: float = 1.0
    cap: float = 60.0
    floor: float = 0.1
    random: random.Random = field(default_factory=random.Random, repr=False)
    failures: int = 0
    refusals: int = 0  # the failures with patience at the end of the spell

    def next(self, patience: float = 0.0) -> float:
        """The next wait in seconds, between `floor` and the growing ceiling, which is `cap` at most.

        `patience` (s) of a failure that will not pass by itself: in a row of those, the wait grows to that, and is no
        less than two thirds of its ceiling once that is above `cap`.
        """
        ceiling = min(self.cap, self.base * 2.0 ** min(self.failures, 16))
        rare = min(patience, self.base * 2.0 ** min(self.refusals, 16))
        self.failures += 1
        self.refusals = self.refusals + 1 if patience else 0
        if rare > self.cap:
            return self.random.uniform(rare * 2 / 3, rare)
        return max(self.floor, self.random.uniform(0.0, ceiling))

    def reset(self) -> None:
        """Call this when a connection has proved itself, not when it opened: a peer may accept and then drop."""
        self.failures = self.refusals = 0
