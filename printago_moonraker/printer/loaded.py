"""What is known of the file that is loaded: its metadata, how long it took before, and its picture, each read once."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from printago_moonraker.moonraker import thumbnails
from printago_moonraker.moonraker.rpc import RpcError, RpcTimeout
from printago_moonraker.printer.history import is_of

if TYPE_CHECKING:
    from printago_moonraker.moonraker.api import Moonraker
    from printago_moonraker.moonraker.thumbnails import Thumbnail
    from printago_moonraker.printer.printer import Printer

logger = logging.getLogger(__name__)

ATTEMPTS = 5
RETRY = 5.0  # s
HISTORY = 50  # prints looked at for how long this file took before


class LoadedFile:
    """One printer's. Everything but `run` is for the event loop's thread, and returns at once."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._filename = ""
        self._thumbnail: Thumbnail | None = None  # that was asked for
        self._asked = 0  # times that the metadata was asked for in vain
        self._news = asyncio.Event()

    def look(self) -> bool:
        """After a change of the printer: whether another file is loaded, of which everything is to be read."""
        if self._printer.state.filename == self._filename:
            return False
        self.reload()
        return True

    def reload(self) -> None:
        """Another file is loaded, or the same one has another content."""
        self._filename, self._asked = self._printer.state.filename, 0
        self._printer.metadata, self._printer.print_times = {}, ()
        self._printer.thumbnail, self._thumbnail = None, None
        self._news.set()

    def history_changed(self) -> None:
        """How long the file takes is known better."""
        self._news.set()

    async def run(self, api: Moonraker) -> None:
        """Read what there is to read, for the length of a connection. Raises ConnectionLost. Cancelling is safe."""
        self._news.set()
        while True:
            await self._news.wait()
            self._news.clear()
            if filename := self._printer.state.filename:
                await self._read(api, filename)

    async def _read(self, api: Moonraker, filename: str) -> None:
        printer = self._printer
        try:
            metadata = await api.file_metadata(filename) or {}
        except (RpcError, RpcTimeout) as error:
            logger.debug("%s: no metadata: %s", printer.config.name, error)
            return
        try:
            history = await api.history_list(limit=HISTORY)
        except (RpcError, RpcTimeout) as error:  # a Moonraker without [history], for example
            logger.debug("%s: no history: %s", printer.config.name, error)
            history = []
        if not metadata and self._asked < ATTEMPTS:
            # A file that was copied into the folder a moment ago: Moonraker has not read it yet, and does not tell.
            self._asked += 1
            asyncio.get_running_loop().call_later(RETRY, self._news.set)
        if filename != printer.state.filename:
            return
        if history and history[0].get("status") == "in_progress":
            printer.prints.enter(str(history[0].get("filename")), str(history[0].get("job_id")))
        done = [job for job in history if is_of(job, filename) and job.get("status") == "completed"]
        printer.metadata = metadata
        printer.print_times = tuple(float(job.get("total_duration") or 0.0) for job in done)
        printer.changed()
        await self._read_thumbnail(filename)

    async def _read_thumbnail(self, filename: str) -> None:
        """Once for each content: the file's history changes, its picture does not."""
        printer, wanted = self._printer, thumbnails.choose(self._printer.metadata, filename)
        if wanted is None or wanted == self._thumbnail:
            return
        self._thumbnail, config = wanted, printer.config
        image = await thumbnails.fetch(
            config.moonraker_url, wanted, api_key=config.moonraker_api_key, ca_file=config.moonraker_ca_file
        )
        if self._thumbnail is wanted:  # the file is still the same
            printer.thumbnail = image
            printer.changed()
