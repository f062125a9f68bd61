"""Moonraker's endpoints that this agent uses: one short method each.

Every method raises what `Connection.call` raises (RpcError, RpcTimeout, ConnectionLost), and ConnectionRefused when
Moonraker does not know us. Cancelling is safe everywhere, but takes nothing back: what was asked still happens.
Names, parameters and answers are those of Moonraker's documentation, "External API".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, cast

from printago_moonraker.errors import ConnectionRefused
from printago_moonraker.moonraker import rpc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from printago_moonraker.moonraker.connection import Connection

PROJECT_URL: Final = "https://github.com/printago/printago-moonraker"
CLIENT_NAME: Final = "printago-moonraker"
JsonObject = dict[str, Any]


class KlippyState(StrEnum):
    """Klipper's host process as Moonraker sees it (`server.info`, `printer.info`, the object `webhooks`)."""

    READY = "ready"
    STARTUP = "startup"
    SHUTDOWN = "shutdown"
    ERROR = "error"
    DISCONNECTED = "disconnected"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, _value: object) -> KlippyState:
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """`klippy_state` counts only while `klippy_connected`."""

    klippy_connected: bool
    klippy_state: KlippyState
    moonraker_version: str


@dataclass(frozen=True, slots=True)
class PrinterInfo:
    """`state_message` is Klipper's explanation, over several lines when there is trouble."""

    state: KlippyState
    state_message: str
    software_version: str


@dataclass(frozen=True, slots=True)
class Directory:
    """A folder's files ({filename, size bytes, modified s since the epoch, permissions}), and its disk in bytes."""

    files: list[JsonObject]
    disk_total: int
    disk_free: int


class Moonraker:
    """One Moonraker, by way of one connection. What waits for Klipper's G-code has no time limit of its own: only
    whoever looks at the printer knows how long that may take. Everything else raises RpcTimeout after 10 s.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def identify(self, version: str, api_key: str | None = None, *, client_name: str = CLIENT_NAME) -> None:
        """Register as an agent. Once per connection ("Identify Connection").

        Raises ConnectionRefused when the name is taken: this socket is then burnt (it would be told "already
        identified" for ever). Close it, and try again on a new one: Moonraker frees the name of an agent that
        vanished after 25 s.
        """
        params = {"client_name": client_name, "version": version, "type": "agent", "url": PROJECT_URL}
        if api_key:
            params["api_key"] = api_key
        try:
            await self._call("server.connection.identify", params)
        except rpc.RpcError as error:
            if "already registered" not in error.message:
                raise
            raise ConnectionRefused(
                f"Another agent is connected to this Moonraker as {client_name}. If that was this agent before a "
                "crash, Moonraker frees the name after 25 s; else stop the other one."
            ) from error

    async def server_info(self) -> ServerInfo:
        """Answered at once in every state of Klipper ("Query Server Info")."""
        info = await self._call("server.info")
        return ServerInfo(
            klippy_connected=bool(info.get("klippy_connected")),
            klippy_state=KlippyState(info.get("klippy_state")),
            moonraker_version=str(info.get("moonraker_version", "")),
        )

    async def printer_info(self) -> PrinterInfo:
        """RpcError 503 while Klipper is not connected ("Get Klippy host information")."""
        info = await self._call("printer.info")
        return PrinterInfo(
            state=KlippyState(info.get("state")),
            state_message=str(info.get("state_message") or ""),
            software_version=str(info.get("software_version") or ""),
        )

    async def objects_list(self) -> list[str]:
        """The printer objects that Klipper has, by full name ("List Loaded Printer Objects")."""
        return cast("list[str]", (await self._call("printer.objects.list"))["objects"])

    async def subscribe(self, objects: Mapping[str, list[str] | None]) -> tuple[dict[str, JsonObject], float]:
        """Replace the subscription; the present values, and their time on Klipper's clock in s ("Subscribe to printer
        object status").

        `objects` are full names, each with its fields, or None for all of them. Takes up to 250 ms (answered on
        Klipper's tick). Gone without a word whenever Klipper restarts.
        """
        answer = await self._call("printer.objects.subscribe", {"objects": dict(objects)})
        return cast("dict[str, JsonObject]", answer["status"]), float(answer.get("eventtime") or 0.0)

    async def query(self, objects: Mapping[str, list[str] | None]) -> tuple[dict[str, JsonObject], float]:
        """The present values of some objects, and their time on Klipper's clock in s ("Query printer object status").

        Takes up to 250 ms (answered on Klipper's tick).
        """
        answer = await self._call("printer.objects.query", {"objects": dict(objects)})
        return cast("dict[str, JsonObject]", answer["status"]), float(answer.get("eventtime") or 0.0)

    async def print_start(self, filename: str) -> None:
        """Print `filename`, relative to gcodes ("Start a print"). Returns with the file open; the print comes after."""
        await self._call("printer.print.start", {"filename": filename}, None)

    async def print_pause(self) -> None:
        """Run the printer's PAUSE macro. Waits behind the running line of G-code, which may be heating ("Pause a
        print").
        """
        await self._call("printer.print.pause", None, None)

    async def print_resume(self) -> None:
        """Run the printer's RESUME macro ("Resume a print")."""
        await self._call("printer.print.resume", None, None)

    async def print_cancel(self) -> None:
        """Run the printer's CANCEL_PRINT macro. Waits like `print_pause` ("Cancel a print")."""
        await self._call("printer.print.cancel", None, None)

    async def gcode_script(self, script: str, timeout: float | None = None) -> None:
        """Run lines of G-code, after whatever runs ("Run a gcode"). RpcError with Klipper's words for the first line
        that fails.

        Done when Klipper accepted the moves, or when a blocking command (G28, M109, M400) ended. An unknown command
        is no error here.
        """
        await self._call("printer.gcode.script", {"script": script}, timeout)

    async def emergency_stop(self) -> None:
        """Halt at once, past every queue ("Emergency Stop")."""
        await self._call("printer.emergency_stop")

    async def restart(self) -> None:
        """Restart Klipper's host software, after what runs ("Soft Restart"). The answer comes before the restart has
        happened.
        """
        await self._call("printer.restart", None, None)

    async def firmware_restart(self) -> None:
        """Restart host and micro-controllers; the only way out of a shutdown ("Firmware Restart"). May never be
        answered.
        """
        await self._call("printer.firmware_restart", None, None)

    async def file_metadata(self, filename: str) -> JsonObject | None:
        """What Moonraker read out of a G-code file; None when it knows no such file ("Get gcode metadata")."""
        try:
            return cast("JsonObject", await self._call("server.files.metadata", {"filename": filename}))
        except rpc.RpcError as error:
            # Moonraker turns its 404 into JSON-RPC's "method not found"; this method is in every version.
            if error.status in {404, rpc.METHOD_NOT_FOUND}:
                return None
            raise

    async def get_directory(self, path: str) -> Directory | None:
        """One folder, `path` with its root ("gcodes/Printago"); None when there is no such folder ("Get directory
        information").
        """
        try:
            answer = await self._call("server.files.get_directory", {"path": path}, 30.0)
        except rpc.RpcError as error:
            if "does not exist" in error.message.lower():
                return None
            raise
        usage = answer.get("disk_usage") or {}
        return Directory(answer["files"], int(usage.get("total", 0)), int(usage.get("free", 0)))

    async def delete_file(self, path: str) -> None:
        """Delete one file, `path` with its root. RpcError 403 for a file that is printing ("Delete file")."""
        await self._call("server.files.delete_file", {"path": path})

    async def history_list(self, limit: int) -> list[JsonObject]:
        """The newest prints first, at most `limit` ("Get job list")."""
        answer = await self._call("server.history.list", {"limit": limit, "order": "desc"})
        return cast("list[JsonObject]", answer["jobs"])

    async def webcams_list(self) -> list[JsonObject]:
        """All webcams, whether from the configuration or from the database ("List Webcams")."""
        return cast("list[JsonObject]", (await self._call("server.webcams.list"))["webcams"])

    async def proc_stats(self) -> JsonObject:
        """The host's load, memory, temperature (°C) and throttling ("Get Moonraker Process Stats")."""
        return cast("JsonObject", await self._call("machine.proc_stats"))

    async def register_remote_method(self, name: str) -> None:
        """Let G-code macros call `name`: it comes as a notification of that name ("Register a method to be called by
        Klipper").

        Ends with the connection; Moonraker itself renews it with Klipper. RpcError 400 the second time.
        """
        await self._call("connection.register_remote_method", {"method_name": name})

    async def _call(self, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = 10.0) -> Any:
        try:
            return await self.connection.call(method, params, timeout=timeout)
        except rpc.RpcError as error:
            if error.status in {401, rpc.INVALID_PARAMS} and error.message in {"Unauthorized", "Invalid API Key"}:
                raise ConnectionRefused(
                    f"Moonraker refused the login ({error}): put its API key into the file that moonraker_api_key_file "
                    "names, or add this host to trusted_clients in moonraker.conf."
                ) from error
            raise
