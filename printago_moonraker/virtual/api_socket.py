"""Klipper's API server: a unix socket on which both sides send JSON objects that end in 0x03.

Klipper Documentation: API_Server. Subscriptions are looked at every 250 ms of wall time, and only what changed is sent.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from printago_moonraker.virtual.gcode import KlipperError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from printago_moonraker.virtual.klippy import Printer

END = b"\x03"
TICK = 0.25  # s of wall time
LIMIT = 16 * 1024 * 1024

Fields = dict[str, list[str] | None]
Status = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Request:
    """What a client asks."""

    connection: Connection
    params: dict[str, Any]

    def argument(self, name: str, kind: type) -> Any:
        """A parameter of that type, else Klipper's error for it."""
        if name not in self.params:
            raise KlipperError(f"Missing Argument [{name}]")
        if not isinstance(self.params[name], kind):
            raise KlipperError(f"Invalid Argument Type [{name}]")
        return self.params[name]


class Connection:
    """One client: its own outgoing queue, so that nothing that happens in the printer waits for a slow reader."""

    def __init__(self, server: ApiServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self._reader, self._writer = server, reader, writer
        self._outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.subscription: Fields = {}
        self.template: dict[str, Any] = {}

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message."""
        self._outgoing.put_nowait(message)

    def close(self) -> None:
        """Close after what has been written."""
        self._writer.close()

    async def serve(self) -> None:
        """Read requests until the client goes; each is answered in its own task."""
        printer = self.server.printer
        writing = printer.spawn(self._write())
        try:
            while True:
                data = await self._reader.readuntil(END)
                await printer.world.faults.flowing.wait()
                printer.spawn(self.server.answer(self, json.loads(data[:-1])))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            return
        finally:
            writing.cancel()
            self.server.forget(self)
            self._writer.close()

    async def _write(self) -> None:
        with suppress(ConnectionError):
            while True:
                message = await self._outgoing.get()
                await self.server.printer.world.faults.flowing.wait()
                self._writer.write(json.dumps(message).encode() + END)
                await self._writer.drain()


class ApiServer:
    """The socket, its endpoints, and the tick. One for each life of Klippy."""

    def __init__(self, printer: Printer, path: Path) -> None:
        self.printer, self.path = printer, path
        self._server: asyncio.Server | None = None
        self._connections: list[Connection] = []
        self._queries: list[tuple[Fields, asyncio.Future[dict[str, Any]]]] = []
        self._wake = asyncio.Event()
        self._last: Status = {}
        self._remote_methods: dict[str, list[tuple[Connection, dict[str, Any]]]] = {}
        run = printer.gcode.run
        self._endpoints: dict[str, Callable[[Request], Awaitable[Any]]] = {
            "info": self._info,
            "list_endpoints": self._list_endpoints,
            "emergency_stop": self._emergency_stop,
            "register_remote_method": self._register_remote_method,
            "objects/list": self._list_objects,
            "objects/query": self._query,
            "objects/subscribe": self._subscribe,
            "gcode/help": self._help,
            "gcode/script": self._script,
            "gcode/subscribe_output": self._subscribe_output,
            "gcode/restart": lambda _: run("RESTART"),
            "gcode/firmware_restart": lambda _: run("FIRMWARE_RESTART"),
            "pause_resume/pause": lambda _: run("PAUSE"),
            "pause_resume/resume": lambda _: run("RESUME"),
            "pause_resume/cancel": lambda _: run("CANCEL_PRINT"),
            "query_endstops/status": self._endstops,
        }

    async def start(self) -> None:
        """Listen. Raises OSError when the socket cannot be made."""
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, self.path, limit=LIMIT)
        self.printer.spawn(self._ticks())

    def close(self) -> None:
        """Drop every client and the socket."""
        for connection in list(self._connections):
            connection.close()
        if self._server is not None:
            self._server.close()
        self.path.unlink(missing_ok=True)

    def forget(self, connection: Connection) -> None:
        """A client has gone: nothing more for it."""
        if connection in self._connections:
            self._connections.remove(connection)
        for listeners in self._remote_methods.values():
            listeners[:] = [entry for entry in listeners if entry[0] is not connection]

    def call_remote_method(self, method: str, params: dict[str, Any]) -> None:
        """A macro's action_call_remote_method; nobody there is no error."""
        for connection, template in self._remote_methods.get(method, []):
            connection.send({**template, "params": params})

    async def answer(self, connection: Connection, message: dict[str, Any]) -> None:
        """Carry out one request, and send its answer when it has an id."""
        if delay := self.printer.world.faults.answer_delay:
            await asyncio.sleep(delay)
        answer: dict[str, Any]
        try:
            endpoint = self._endpoints.get(message["method"], self._unknown(message["method"]))
            answer = {"result": await endpoint(Request(connection, message.get("params") or {})) or {}}
        except KlipperError as error:
            answer = {"error": {"error": "WebRequestError", "message": str(error)}}
        if "id" in message:
            connection.send({"id": message["id"], **answer})

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer)
        self._connections.append(connection)
        await connection.serve()

    async def _ticks(self) -> None:
        while True:
            if not self._queries and not any(c.subscription for c in self._connections):
                self._wake.clear()
                await self._wake.wait()  # as in Klipper: without a subscription, the first query is answered at once
            await self.printer.world.faults.flowing.wait()
            self._tick()
            await asyncio.sleep(TICK)

    def _tick(self) -> None:
        now, last, status = self.printer.clock.now(), self._last, {}
        queries, self._queries = self._queries, []
        subscriptions = [connection.subscription for connection in self._connections]
        for name in {name for fields in [*(fields for fields, _ in queries), *subscriptions] for name in fields}:
            read = self.printer.objects.get(name)
            status[name] = read() if read else {}
        self._last = status
        for fields, future in queries:
            if not future.done():
                picked = {name: _picked(status[name], keys) for name, keys in fields.items()}
                future.set_result({"eventtime": now, "status": picked})
        for connection in self._connections:
            changed: Status = {}
            for name, keys in connection.subscription.items():
                old = last.get(name, {})
                new = {k: v for k, v in _picked(status[name], keys).items() if k not in old or old[k] != v}
                if new:
                    changed[name] = new
            if changed:
                connection.send({**connection.template, "params": {"eventtime": now, "status": changed}})

    async def _read(self, request: Request) -> tuple[Fields, dict[str, Any]]:
        fields = request.argument("objects", dict)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._queries.append((fields, future))
        self._wake.set()
        return fields, await future

    async def _query(self, request: Request) -> dict[str, Any]:
        return (await self._read(request))[1]

    async def _subscribe(self, request: Request) -> dict[str, Any]:
        fields, result = await self._read(request)
        request.connection.subscription = fields
        request.connection.template = dict(request.params.get("response_template", {}))
        return result

    @staticmethod
    def _unknown(method: str) -> Callable[[Request], Awaitable[Any]]:
        async def refuse(_: Request) -> None:
            raise KlipperError(f"webhooks: No registered callback for path '{method}'")

        return refuse

    async def _info(self, _: Request) -> dict[str, Any]:
        return self.printer.info()

    async def _list_endpoints(self, _: Request) -> dict[str, Any]:
        return {"endpoints": list(self._endpoints)}

    async def _list_objects(self, _: Request) -> dict[str, Any]:
        return {"objects": list(self.printer.objects)}

    async def _emergency_stop(self, _: Request) -> None:
        self.printer.world.counters["emergency_stops"] += 1
        self.printer.shut_down("Shutdown due to webhooks request")

    async def _register_remote_method(self, request: Request) -> None:
        method, template = request.argument("remote_method", str), request.argument("response_template", dict)
        self._remote_methods.setdefault(method, []).append((request.connection, template))

    async def _help(self, _: Request) -> dict[str, str]:
        return dict.fromkeys((name for name in self.printer.commands if "_" in name), "")

    async def _script(self, request: Request) -> None:
        script = request.argument("script", str)
        self.printer.world.note("script", text=script)
        await self.printer.gcode.run(script)

    async def _subscribe_output(self, request: Request) -> None:
        template = request.argument("response_template", dict)
        send = request.connection.send
        self.printer.gcode.listeners.append(lambda text: send({**template, "params": {"response": text}}))

    async def _endstops(self, _: Request) -> dict[str, str]:
        return dict.fromkeys("xyz", "open")


def _picked(status: dict[str, Any], keys: list[str] | None) -> dict[str, Any]:
    return status if keys is None else {key: status[key] for key in keys if key in status}
