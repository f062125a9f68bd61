"""The agent's three edges in simulated time: Moonraker's connection, the MQTT session and the database's thread."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from printago_moonraker.errors import ConnectionLost, ConnectionRefused
from printago_moonraker.moonraker.rpc import RpcError
from printago_moonraker.printago.endpoint import Message
from tests.fakes.klipper import METADATA, OBJECTS, SETTINGS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from tests.simulated.world import World

T = TypeVar("T")


class MoonrakerLink:
    """Stands for `moonraker.connection.Connection`."""

    def __init__(self, world: World, on_notification: Callable[[str, Any], None]) -> None:
        self._world = world
        self._process = world.process
        self._on_notification = on_notification
        self._closed = asyncio.get_running_loop().create_future()
        self.subscribed = False

    def notify(self, method: str, params: list[Any]) -> None:
        if method == "notify_status_update" and not self.subscribed:
            return
        if self._process.alive and not self._closed.done():
            self._note_seen()
            self._on_notification(method, params)

    def _note_seen(self) -> None:
        if self._world.job is not None and self.subscribed:
            self._world.job.seen = True

    def lose(self) -> None:
        self._world.connections.discard(self)
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)
        raise ConnectionLost("simulated")

    async def call(self, method: str, params: Mapping[str, Any] | None = None, *, timeout: float | None = 10.0) -> Any:
        await asyncio.wait([self._closed], timeout=0.004)
        if self._closed.done() or not self._process.alive:
            raise ConnectionLost("simulated")
        return getattr(self, "_" + method.replace(".", "_"), lambda _: {})(params or {})

    def _server_connection_identify(self, _: Any) -> Any:
        return {"connection_id": 1}

    def _server_info(self, _: Any) -> Any:
        state = "ready" if self._world.klippy_up else "disconnected"
        return {"klippy_connected": self._world.klippy_up, "klippy_state": state, "moonraker_version": "v0"}

    def _printer_info(self, _: Any) -> Any:
        self._need_klippy()
        return {"state": "ready", "state_message": "", "software_version": "v0.13.0"}

    def _printer_objects_list(self, _: Any) -> Any:
        self._need_klippy()
        return {"objects": OBJECTS}

    def _printer_objects_subscribe(self, params: Mapping[str, Any]) -> Any:
        self._need_klippy()
        self._world.push()
        self.subscribed = True
        self._note_seen()
        status = {name: copy.deepcopy(self._world.status.get(name, {})) for name in params["objects"]}
        return {"status": {**status, "configfile": {"settings": SETTINGS}}}

    def _printer_objects_query(self, params: Mapping[str, Any]) -> Any:
        self._need_klippy()
        return {"status": {name: copy.deepcopy(self._world.status.get(name, {})) for name in params["objects"]}}

    def _server_files_metadata(self, _: Any) -> Any:
        return METADATA

    def _server_history_list(self, params: Mapping[str, Any]) -> Any:
        return {"jobs": [dict(job) for job in self._world.history]}

    def _server_webcams_list(self, _: Any) -> Any:
        return {"webcams": []}

    def _printer_print_start(self, params: Mapping[str, Any]) -> Any:
        self._need_klippy()
        if self._world.job is not None:
            raise RpcError(400, "SD busy")
        self._world.begin(params["filename"])
        return "ok"

    def _printer_print_cancel(self, _: Any) -> Any:
        self._need_klippy()
        self._world.end("cancelled")
        return "ok"

    def _printer_print_pause(self, _: Any) -> Any:
        self._need_klippy()
        if self._world.job is not None:
            self._world.push(print_stats={"state": "paused"})
        return "ok"

    def _printer_print_resume(self, _: Any) -> Any:
        self._need_klippy()
        if self._world.job is not None:
            self._world.push(print_stats={"state": "printing"})
        return "ok"

    def _need_klippy(self) -> None:
        if not self._world.klippy_up:
            raise RpcError(503, "Klippy Host not connected")


class MqttLink:
    """Stands for `printago.mqtt.MqttSession`."""

    protocol, endpoint, window = "5", "simulated:1883", 20

    def __init__(self, world: World, on_message: Callable[[Message], None]) -> None:
        self._world = world
        self._process = world.process
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._waiting: dict[asyncio.Future[None], tuple[str, bytes]] = {}
        self._unacknowledged: dict[int, bytes] = {}
        self.lost: ConnectionLost | None = None

    def give(self, payload: bytes) -> None:
        """A command, which the broker keeps until it is acknowledged."""
        number = id(payload)
        self._unacknowledged[number] = payload

        def ack() -> None:
            if self._process.alive and self.lost is None:
                self._unacknowledged.pop(number, None)

        self._on_message(Message("commands", payload, 1, False, False, None, None, None, ack))

    def publish(self, topic: str, payload: bytes, **_: Any) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        if self.lost is not None or not self._process.alive:
            future.set_exception(ConnectionLost("simulated"))
            future.exception()
            return future
        self._waiting[future] = topic, payload
        self._loop.call_later(0.02, self._acknowledge)
        return future

    def _acknowledge(self) -> None:
        if self._waiting and self._process.alive:
            future = next(iter(self._waiting))
            self._world.receive(*self._waiting.pop(future))
            if not future.done():
                future.set_result(None)

    def lose(self) -> None:
        """What was under way has arrived, or has not: nobody here knows."""
        self.lost = ConnectionLost("simulated")
        self._world.sessions.discard(self)
        arrived = self._world.rng.randrange(len(self._waiting) + 1)
        for number, (future, letter) in enumerate(self._waiting.items()):
            if number < arrived:
                self._world.receive(*letter)
            if not future.done():
                future.set_exception(ConnectionLost("simulated"))
                future.exception()
        self._waiting.clear()
        self._world.waiting.extendleft(reversed(self._unacknowledged.values()))
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)
        raise ConnectionLost("simulated")


class Disk:
    """Stands for `printago.database.Database`: the same transactions, without the thread."""

    def __init__(self, world: World, migrations: Sequence[str]) -> None:
        self._world = world
        self._process = world.process
        self._migrations = migrations
        self._queue: deque[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]] = deque()
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        version = self._world.disk.execute("PRAGMA user_version").fetchone()[0]
        for number, script in enumerate(self._migrations[version:], version + 1):
            self._world.disk.executescript(f"{script}; PRAGMA user_version = {number}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.02)

    def submit(self, work: Callable[[sqlite3.Connection], T], *, lazy: bool = False) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.append((work, future))  # two timers of the same moment may run in any order
        self._loop.call_later(0.005, self._commit)
        return future

    def _commit(self) -> None:
        work, future = self._queue.popleft()
        if not self._process.alive:
            future.cancel()
            return
        self._world.disk.execute("BEGIN")
        try:
            result = work(self._world.disk)
        except Exception as error:
            self._world.disk.execute("ROLLBACK")
            self._world.note(f"the database: {error!r}")
            if not future.done():
                future.set_exception(error)
            return
        self._world.disk.execute("COMMIT")
        if not future.done():
            future.set_result(result)


def rows(world: World) -> dict[str, int]:
    """How many rows each table has."""
    names = [name for (name,) in world.disk.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {name: world.disk.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}


def connectors(world: World) -> SimpleNamespace:
    """What takes the place of the three edges: `moonraker`, `mqtt`, `database`."""

    @asynccontextmanager
    async def moonraker(url: str, *, on_notification: Callable[[str, Any], None], **_: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(0.01)
        if not world.moonraker_up or not world.process.alive:
            raise ConnectionRefused("simulated: nobody listens")
        link = MoonrakerLink(world, on_notification)
        world.connections.add(link)
        try:
            yield link
        finally:
            link.lose()

    @asynccontextmanager
    async def mqtt(endpoint: Any, *, on_message: Callable[[Message], None], **_: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(0.03)
        if not world.broker_up or not world.process.alive:
            raise ConnectionRefused("simulated: nobody listens")
        link = MqttLink(world, on_message)
        world.sessions.add(link)
        asyncio.get_running_loop().call_soon(world.deliver)
        try:
            yield link
        finally:
            if link.lost is None:
                link.lose()

    def database(path: Any, migrations: Sequence[str], **_: Any) -> Disk:
        return Disk(world, migrations)

    return SimpleNamespace(moonraker=moonraker, mqtt=mqtt, database=database)
