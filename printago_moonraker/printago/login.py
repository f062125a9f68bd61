"""Who one printer's connection is to the broker, and when that is somebody else: paired, unpaired, paired anew."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from printago_moonraker import credentials
from printago_moonraker.printago.endpoint import endpoint_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from printago_moonraker.config import Config
    from printago_moonraker.printago.endpoint import Endpoint

LOOK: Final = 2.0  # s between two looks at the file: `pair` is another process

_Stamp = tuple[int, int, int] | None


class Login:
    """`make` makes the endpoint out of what `file` has now; without a file it is the same for ever."""

    def __init__(self, make: Callable[[], Endpoint], file: Path | None = None) -> None:
        self._make = make
        self._file = file
        self._seen = self._stamp()

    def endpoint(self) -> Endpoint:
        """As it is now. Raises NotPaired, ConfigError."""
        self._seen = self._stamp()  # before the file is read: a change in between is noticed then
        return self._make()

    @property
    def look(self) -> float | None:
        """Seconds between two looks whether it has changed; None: it never does."""
        return LOOK if self._file is not None else None

    def has_changed(self) -> bool:
        """Whether the file is not the one any more that the last `endpoint` was made of."""
        return self._stamp() != self._seen

    async def pause(self, seconds: float) -> bool:
        """Wait so long, or until the file has changed; whether it has. Cancelling is safe."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.has_changed():  # noqa: ASYNC110 - another process changes it
                    await asyncio.sleep(seconds if self.look is None else self.look)
        return self.has_changed()

    def _stamp(self) -> _Stamp:
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


def login_for(config: Config, printer_id: str) -> Login:
    """One printer's login, as configuration and pairing say."""
    return Login(
        lambda: endpoint_for(config.login(), printer_id),
        None if config.mqtt.username is not None else config.printago.data_path / credentials.NAME,
    )
