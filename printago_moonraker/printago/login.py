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

    async def wait_changed(self) -> None:
        """Until the file is not the one that the last `endpoint` was made of. Cancelling is safe."""
        while self._stamp() == self._seen:  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(LOOK)

    async def pause(self, seconds: float) -> bool:
        """Wait so long, or until the file has changed; whether it has. Cancelling is safe."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wait_changed()
        return self._stamp() != self._seen

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
