"""A Moonraker client for tests that remembers everything it hears, in order."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import websockets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Message = dict[str, Any]


class RpcError(Exception):
    """An error answer."""

    def __init__(self, error: Message) -> None:
        super().__init__(error["code"], error["message"])
        self.code, self.message = error["code"], error["message"]


class Client:
    """`log` holds all that came in, answers too; `status` is what the status pushes add up to."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._pending: dict[int, asyncio.Future[Message]] = {}
        self._heard = asyncio.Event()
        self._next_id = 0
        self.log: list[Message] = []
        self.status: dict[str, Message] = {}

    async def call(self, method: str, **params: Any) -> Any:
        """The result; raises RpcError."""
        return await self.send(method, **params)

    def send(self, method: str, **params: Any) -> asyncio.Task[Any]:
        """The same, without waiting for it yet."""
        self._next_id += 1
        return asyncio.create_task(self._call(self._next_id, method, params))

    async def gcode(self, script: str) -> Any:
        """printer.gcode.script."""
        return await self.call("printer.gcode.script", script=script)

    async def subscribe(self, *objects: str) -> dict[str, Message]:
        """The first status of these objects, of all objects when none is named."""
        names = objects or (await self.call("printer.objects.list"))["objects"]
        answer = await self.call("printer.objects.subscribe", objects=dict.fromkeys(names))
        first: dict[str, Message] = answer["status"]
        self.status = {name: dict(fields) for name, fields in first.items()}
        return first

    async def until(self, seen: Callable[[], Any], timeout: float = 15.0) -> Any:
        """Wait until `seen()` is true, looking again at each message; returns what it gave."""
        async with asyncio.timeout(timeout):
            while not (result := seen()):
                self._heard.clear()
                await self._heard.wait()
        return result

    async def state(self, obj: str, field: str, value: Any, timeout: float = 15.0) -> None:
        """Wait until a field has that value."""
        await self.until(lambda: self.status.get(obj, {}).get(field) == value, timeout)

    async def heard(self, text: str, after: int = 0, timeout: float = 15.0) -> int:
        """Wait for a message in whose label `text` stands; its place in the log."""

        def find() -> int | None:
            return next((i + 1 for i in range(after, len(self.log)) if text in label(self.log[i])), None)

        place: int = await self.until(find, timeout)
        return place - 1

    def responses(self, after: int = 0) -> list[str]:
        """Every notify_gcode_response since then."""
        return [m["params"][0] for m in self.log[after:] if m.get("method") == "notify_gcode_response"]

    async def read(self) -> None:
        """Until the socket closes."""
        async for raw in self._socket:
            message = json.loads(raw)
            self.log.append(message)
            if message.get("method") == "notify_status_update":
                for name, fields in message["params"][0].items():
                    self.status.setdefault(name, {}).update(fields)
            elif (future := self._pending.pop(message.get("id"), None)) is not None:
                future.set_result(message)
            self._heard.set()

    async def _call(self, number: int, method: str, params: Message) -> Any:
        self._pending[number] = asyncio.get_running_loop().create_future()
        request = {"jsonrpc": "2.0", "method": method, "params": params, "id": number}
        await self._socket.send(json.dumps(request))
        answer = await self._pending[number]
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]


def label(message: Message) -> str:
    """One line that says what a message is: `notify_klippy_ready`, `response !! SD busy`, `answer`, `status fan`."""
    method = message.get("method")
    if method is None:
        return "error" if "error" in message else "answer"
    if method == "notify_gcode_response":
        return f"response {message['params'][0].splitlines()[0]}"
    if method == "notify_status_update":
        return f"status {' '.join(sorted(message['params'][0]))}"
    if method == "notify_history_changed":
        entry = message["params"][0]
        return f"history {entry['action']} {entry['job']['status']}"
    return str(method)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A client on Moonraker's websocket."""
    async with websockets.connect(url.replace("http", "ws") + "/websocket", max_size=None) as socket:
        client = Client(socket)
        reader = asyncio.create_task(client.read())
        try:
            yield client
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
