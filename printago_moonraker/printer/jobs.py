"""Files for prints: fetched from the cloud, uploaded to Moonraker, started, and tidied away."""

from __future__ import annotations

import logging
import time
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from printago_moonraker import errors
from printago_moonraker.log import printable
from printago_moonraker.moonraker.http import Download, Uploaded, upload
from printago_moonraker.moonraker.rpc import RpcError, RpcTimeout
from printago_moonraker.printer import archive, gcode, names
from printago_moonraker.printer.phase import Phase
from printago_moonraker.printer.starts import Starts
from printago_moonraker.urlpolicy import UrlPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping

    from printago_moonraker.printer.printer import Printer
    from printago_moonraker.printer.starts import Start

logger = logging.getLogger(__name__)

_SPARE = 0.05  # of the printer's disk stays free
_PROGRESS_INTERVAL = 2.0  # s


@dataclass(frozen=True)
class Fetched:
    """A file that lies on the printer. `path` is relative to the gcodes root, `size` in bytes, `duration` in s."""

    path: str
    size: int
    sha256: str
    duration: float

    def describe(self) -> dict[str, Any]:
        return {
            "file_name": self.path.rpartition("/")[2],
            "path": self.path,
            "size": self.size,
            "sha256": self.sha256,
            "duration": self.duration,
        }


class Jobs:
    """One printer's transfers and starts."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._settings = printer.settings.transfers
        self._policy = UrlPolicy(allow_http=self._settings.allow_http, allowed_hosts=self._settings.allowed_hosts)
        self.starts = Starts(printer)

    def path_of(self, file_name: str) -> str:
        """Where the file that a command names lies below the gcodes root. Raises ForbiddenPath."""
        return names.in_folder(file_name, self._settings.folder)

    def subject(self, parameters: Mapping[str, Any]) -> str | None:
        """The path of the file that a command with these parameters is about, None when it is about none."""
        url, file_name = parameters.get("url"), parameters.get("file_name")
        try:
            if url:
                folder, plate = self._settings.folder, parameters.get("plate") or 1
                return f"{folder}/{names.download_name(url, file_name, folder, plate)}"
            return self.path_of(file_name) if file_name else None
        except (errors.ForbiddenPath, errors.ForbiddenUrl):
            return None

    async def fetch(self, parameters: Mapping[str, Any]) -> Fetched:
        """Stream the file of a `download_gcode` into Moonraker; the name appears there only when the file is whole.

        Raises the CommandErrors of a transfer. Cancelling is safe: nothing is left.
        """
        url, plate = parameters["url"], parameters.get("plate") or 1
        name = names.download_name(url, parameters.get("file_name"), self._settings.folder, plate)
        path = f"{self._settings.folder}/{name}"
        job_id = parameters.get("job_id")
        self._refuse_if_printing(path)
        with self._told(path, job_id) as payload:
            limit, on_disk = await self._room()
            try:
                fetched = await self._stream(parameters, path, limit, payload)
            except errors.DownloadTooLarge as error:
                if on_disk < self._settings.max_download_size:
                    raise errors.NoSpace(
                        f"The printer's disk has room for {limit} bytes, with 5 % to spare; the file is larger."
                    ) from error
                raise
            self._printer.prints.name_file(path, job_id)
            await self._printer.remember()
            payload.update(size=fetched.size, time=fetched.duration)
        try:
            await self._analysed(fetched)
            await self._tidy(keep=path)
        except (RpcError, RpcTimeout, errors.LinkError) as error:
            logger.info("%s: after the transfer of %s: %s", self._printer.config.name, printable(path), error)
        return fetched

    async def locate(self, file_name: str) -> str:
        """Where the file to be printed lies: under the name that a command gives it, or under the one that a download
        of that name was given. Raises ForbiddenPath, FileNotFound.
        """
        path = self.path_of(file_name)
        stored = f"{self._settings.folder}/{names.download_name('', file_name, self._settings.folder)}"
        for each in dict.fromkeys((path, stored)):
            if await self._printer.api.file_metadata(each) is not None or await self._exists(each):
                return each
        raise errors.FileNotFound(f"File does not exist: {path}")

    async def start(self, path: str, job_id: str | None, start: Start, deadline: float) -> None:
        """Start the print of `path` (below the gcodes root) before `deadline` (on the monotonic clock), and wait until
        it is seen. Raises the CommandErrors of a start.
        """
        printer = self._printer
        async with start.interrupted():
            await printer.turn("The print start", deadline=deadline)
            self._refuse_if_busy()
            await self._clear_pause()
            after = await self._newest_entry()
        self._refuse_if_busy()
        prints = printer.prints
        prints.expect(path, job_id, printer.state, after=after)
        try:
            await printer.remember()  # whose print it is must be known even if nobody is there to see it begin
            start.hand_over()
        except BaseException:
            prints.forget_expected()
            printer.changed()  # it is stored that nothing is expected any more
            raise
        with printer.operation(Phase.STARTING):
            await printer.carry_out(
                "The print start", self._hand_over(path), lambda: prints.begun or printer.is_printing(path)
            )

    def _refuse_if_busy(self) -> None:
        """Looked at again and again: another client may have started a print meanwhile."""
        printer = self._printer
        printer.require_ready()
        if printer.phase.has_job:
            raise printer.busy()

    async def _hand_over(self, path: str) -> None:
        """Klipper's own answer tells whether the print is still to come, whatever becomes of who waits for it."""
        prints = self._printer.prints
        try:
            await self._printer.api.print_start(path)
        except RpcError as error:
            if not isinstance(gcode.refusal(error), errors.PrinterOffline):
                prints.forget_expected()
            raise
        prints.accepted()
        self._printer.changed()

    async def _clear_pause(self) -> None:
        """A pause that came after its print's end stays in Klipper, which then takes no pause of the next one."""
        state = self._printer.state
        if state.get("pause_resume", "is_paused", False):
            await self._printer.carry_out("Clearing the pause", self._printer.api.gcode_script(gcode.CLEAR_PAUSE))

    # ------------------------------------------------------------------------------------------------------- transfer

    async def _stream(self, parameters: Mapping[str, Any], path: str, limit: int, payload: dict[str, Any]) -> Fetched:
        begun = time.monotonic()
        async with Download(
            parameters["url"],
            self._policy,
            max_bytes=limit,
            expected_size=parameters.get("size"),
            expected_sha256=parameters.get("sha256"),
        ) as download:
            payload["size"] = download.total
            self._printer.emit("TransferStarted", dict(payload))
            async with aclosing(self._progress(download, payload)) as chunks:
                first = await anext(chunks, b"")
                while 0 < len(first) < len(archive.MAGIC) and (more := await anext(chunks, b"")):
                    first += more
                whole = _chain(first, chunks)
                if first.startswith(archive.MAGIC):
                    uploaded = await self._upload_plate(whole, parameters.get("plate") or 1, path, limit)
                elif names.is_archive(parameters.get("file_name") or urlsplit(parameters["url"]).path):
                    raise errors.DownloadFailed("The file is called .3mf, but is not a 3MF archive.")
                else:
                    uploaded = await self._upload(whole, path)
        return Fetched(path, uploaded.size, uploaded.sha256, round(time.monotonic() - begun, 3))

    async def _upload_plate(self, chunks: AsyncIterator[bytes], plate: int, path: str, limit: int) -> Uploaded:
        """Open a 3MF archive on the way, and upload one plate's G-code out of it."""
        folder = self._printer.settings.printago.data_path
        async with archive.spooled(chunks, folder) as file, aclosing(archive.plate_gcode(file, plate, limit)) as gcode:
            return await self._upload(gcode, path)

    async def _upload(self, chunks: AsyncIterator[bytes], path: str) -> Uploaded:
        self._refuse_if_printing(path)
        folder, _, name = path.rpartition("/")
        config = self._printer.config
        return await upload(
            config.moonraker_url,
            chunks,
            name=name,
            folder=folder,
            api_key=config.moonraker_api_key,
            ca_file=config.moonraker_ca_file,
        )

    async def _progress(self, download: Download, payload: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """The download's chunks, telling now and then how far it is."""
        told = time.monotonic()
        async for chunk in download:
            yield chunk
            now = time.monotonic()
            if now - told >= _PROGRESS_INTERVAL:
                told = now
                percent = round(100 * download.received / download.total, 1) if download.total else None
                self._printer.emit("TransferProgress", {**payload, "received": download.received, "progress": percent})

    @contextmanager
    def _told(self, path: str, job_id: str | None) -> Iterator[dict[str, Any]]:
        """Tell how the transfer ended, whatever the end. The yielded payload is sent with it."""
        payload: dict[str, Any] = {
            "name": path.rpartition("/")[2],
            "path": path,
            "origin": "local",
            "size": None,
            "job_id": job_id,
            "source": "printago",
        }
        try:
            yield payload
        except errors.CommandError as error:
            self._printer.emit("TransferFailed", {**payload, "reason": str(error), "code": error.code})
            raise
        except errors.AgentError as error:
            self._printer.emit("TransferFailed", {**payload, "reason": str(error), "code": errors.PrinterOffline.code})
            raise
        except BaseException:
            self._printer.emit(
                "TransferFailed", {**payload, "reason": "The transfer was given up.", "code": "cancelled"}
            )
            raise
        self._printer.emit("TransferDone", payload)

    async def _room(self) -> tuple[int, int]:
        """How many bytes a download may have now, and how many the printer's disk would hold with 5 % to spare."""
        directory = await self._printer.api.get_directory("gcodes")
        if directory is None or not directory.disk_total:
            return self._settings.max_download_size, self._settings.max_download_size
        room = max(0, directory.disk_free - int(directory.disk_total * _SPARE))
        if room == 0:
            raise errors.NoSpace("The printer's disk is full: less than 5 % is free.")
        return min(self._settings.max_download_size, room), room

    async def _analysed(self, fetched: Fetched) -> None:
        """Moonraker has read the file's metadata by the time the upload is answered."""
        metadata = await self._printer.api.file_metadata(fetched.path) or {}
        result = {
            "estimatedPrintTime": metadata.get("estimated_time"),
            "filament": {"tool0": {"length": metadata.get("filament_total")}},
        }
        name = fetched.path.rpartition("/")[2]
        self._printer.emit(
            "MetadataAnalysisFinished", {"name": name, "path": fetched.path, "origin": "local", "result": result}
        )

    async def _tidy(self, keep: str) -> None:
        """Delete all but the newest files of the folder; the one that is loaded and the one just fetched stay."""
        directory = await self._printer.api.get_directory(f"gcodes/{self._settings.folder}")
        if directory is None:
            return
        files = sorted(directory.files, key=lambda file: float(file.get("modified", 0.0)), reverse=True)
        files = [file for file in files if str(file["filename"]).lower().endswith(names.GCODE_ENDINGS)]
        for file in files[self._settings.max_printago_files :]:
            path = f"{self._settings.folder}/{file['filename']}"
            if path != keep and not self._printer.is_printing(path):
                try:
                    await self._printer.api.delete_file(f"gcodes/{path}")
                except RpcError as error:  # loaded, or another user's: no reason to keep the others
                    logger.info("%s: %s stays: %s", self._printer.config.name, printable(path), error)

    async def _newest_entry(self) -> str | None:
        """Of Moonraker's history: where it ends now. None when there is none."""
        try:
            history = await self._printer.api.history_list(limit=1)
        except (RpcError, RpcTimeout):
            return None
        return str(history[0].get("job_id")) if history else None

    async def _exists(self, path: str) -> bool:
        """A file without metadata (none could be read out of it) is a file all the same."""
        folder, _, name = path.rpartition("/")
        directory = await self._printer.api.get_directory(f"gcodes/{folder}")
        return directory is not None and any(file["filename"] == name for file in directory.files)

    def _refuse_if_printing(self, path: str) -> None:
        if self._printer.is_printing(path):
            raise errors.Busy(f"{path} is printing; it can be replaced when the print has ended.")


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
