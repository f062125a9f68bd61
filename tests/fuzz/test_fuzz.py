"""Whatever comes down the command topic: one answer, no G-code but the agent's own, no way out of folder or network."""

from __future__ import annotations

import asyncio
import os
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings

from printago_moonraker import agent, config
from printago_moonraker.backoff import Backoff
from printago_moonraker.moonraker import http
from tests.fakes.moonraker import FakeMoonraker, Upload
from tests.fakes.mosquitto import mosquitto
from tests.faults.recorder import Recorder
from tests.fuzz import inputs
from tests.fuzz.klippy import FILE, Klippy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INPUTS = int(os.environ.get("FUZZ_INPUTS", "2000"))
PUBLIC_ADDRESS, PRIVATE_ADDRESS = "93.184.216.34", "10.1.2.3"
FILENAME = b'filename="'
JPEG = bytes.fromhex(
    "ffd8ffc0001108000800080301220002110103110100ffda0008010100003f00ffd9"
)  # 8 by 8, as far as its head says

CONFIG = """\
[printago]
data_path: {folder}/data
log_level: error
[mqtt]
host: 127.0.0.1
port: {mqtt}
tls: off
[printer v1]
moonraker_url: http://127.0.0.1:{moonraker}
[transfers]
allow_http: on
"""


class Network:
    """Stands at the loop's sockets: names have the addresses that the fuzzer gives them, connections to the public
    address go to a web server of the test, and one to a private address is a violation.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, own: set[int]) -> None:
        self.violations: list[str] = []
        self.connected = 0
        self.web_port = 0
        self._own = own  # ports of the loopback that the agent is configured to use
        self._getaddrinfo: Callable[..., Any] = loop.getaddrinfo
        self._connect: Callable[..., Any] = loop.sock_connect
        self._rebound = False
        loop.getaddrinfo = self.getaddrinfo  # type: ignore[method-assign]
        loop.sock_connect = self.sock_connect  # type: ignore[method-assign]

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        addresses = {
            inputs.PUBLIC: [PUBLIC_ADDRESS],
            inputs.PRIVATE: [PRIVATE_ADDRESS],
            inputs.MIXED: [PUBLIC_ADDRESS, PRIVATE_ADDRESS, "::1"],
            inputs.REBINDING: [PRIVATE_ADDRESS if self._rebound else PUBLIC_ADDRESS],
        }.get(host)
        if host == inputs.REBINDING:
            self._rebound = not self._rebound
        if addresses is not None:
            family = {4: socket.AF_INET, 6: socket.AF_INET6}
            return [
                (family[ip_address(address).version], socket.SOCK_STREAM, 6, "", (address, port))
                for address in addresses
            ]
        # Addresses in whatever spelling, and the names of this host, are left to the system; no question goes out.
        if isinstance(host, str) and host.rstrip(".").lower() != "localhost":
            options = {**options, "flags": socket.AI_NUMERICHOST}
        return await self._getaddrinfo(host, port, **options)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        host, port = address[:2]
        if host == PUBLIC_ADDRESS:
            self.connected += 1
            await self._connect(sock, ("127.0.0.1", self.web_port))
            return
        if not (host == "127.0.0.1" and port in self._own):
            if not ip_address(host.partition("%")[0]).is_global:
                self.violations.append(f"a connection to {host}:{port}")
            raise ConnectionRefusedError
        await self._connect(sock, address)


PATIENCE = 20.0  # s; nothing of the test's network waits for a time limit


class Web:
    """The public web server: files, redirects into private networks, lies about lengths; and the webcam's picture."""

    def __init__(self) -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def start(self) -> int:
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        port: int = self.runner.addresses[0][1]
        return port

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        target = {
            "/redirect/private": f"http://{PRIVATE_ADDRESS}/a.gcode",
            "/redirect/name": f"http://{inputs.PRIVATE}/a.gcode",
            "/redirect/loop": "/redirect/loop",
            "/redirect/file": "file:///etc/passwd",
        }.get(request.path)
        if target:
            return web.Response(status=302, headers={"Location": target})
        if request.path == "/none":
            return web.Response(status=404)
        if request.path == "/snapshot":
            return web.Response(body=JPEG, content_type="image/jpeg")
        return web.Response(body=b"G28\n" * (5000 if request.path == "/big" else 5))


class Fuzzer:
    """One agent, which gets one input after the other."""

    def __init__(self, recorder: Recorder, klippy: Klippy, network: Network) -> None:
        self.klippy = klippy
        self.network = network
        self.fed = 0
        self._recorder = recorder

    async def feed(self, payload: bytes) -> None:
        """Send it, and wait for its answer; AssertionError when it did what nothing may do."""
        before = self.answers
        assert before == self.fed, f"an input before {payload!r} was answered {before - self.fed + 1} times"
        self.fed += 1
        self._recorder.publish_raw(payload)
        answered = await self._recorder.until(lambda: self.answers > before, PATIENCE)
        assert answered, f"no answer to {payload!r}"
        await self.klippy.rest()
        violations = self.klippy.violations + self.network.violations + _strange_uploads(self.klippy.moonraker.uploads)
        assert not violations, f"{payload!r}: {violations}"
        self.klippy.moonraker.uploads.clear()
        self.klippy.moonraker.requests.clear()

    @property
    def answers(self) -> int:
        """How many terminal answers there have been; statuses and all."""
        return self._recorder.answered


def _strange_uploads(uploads: list[Upload]) -> list[str]:
    names = [each.head.partition(FILENAME)[2].partition(b'"')[0].decode("utf-8", "replace") for each in uploads]
    return [f"an upload called {name!r}" for name in names if not FILE.fullmatch(f"Printago/{name}")]


# The agent's jitter, in the other thread, draws from `random` while hypothesis watches that its strategies do not.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.timeout(max(120, INPUTS // 10))
async def test_every_input_is_answered_once_and_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each input gets exactly one answer; its G-code is of a known form, its files stay in the folder, and no private
    address is connected to."""
    monkeypatch.setattr(Backoff, "next", _hardly_waiting)  # a download that cannot work is to fail soon
    monkeypatch.setattr(http, "UPLOAD_SPACING", 0.0)
    loop = asyncio.get_running_loop()
    site = Web()
    async with mosquitto(tmp_path) as broker, FakeMoonraker() as moonraker, Recorder(broker.port, "v1") as recorder:
        web_port = await site.start()
        network = Network(loop, {broker.port, moonraker.port, web_port})
        network.web_port = web_port
        klippy = Klippy(moonraker, f"http://127.0.0.1:{web_port}/snapshot")
        (tmp_path / "printago.cfg").write_text(
            CONFIG.format(folder=tmp_path, mqtt=broker.port, moonraker=moonraker.port)
        )
        serving = asyncio.create_task(agent.run(config.load(tmp_path / "printago.cfg")))
        try:
            assert await recorder.until(lambda: any(each.event == "Connected" for each in recorder.received))
            fuzzer = Fuzzer(recorder, klippy, network)
            await asyncio.to_thread(_fuzz, fuzzer, loop)
            await asyncio.sleep(0.3)
            assert fuzzer.answers == fuzzer.fed, "the last input was answered more than once"
            assert klippy.written > INPUTS // 50, "hardly any G-code was written: the inputs have become too wild"
            assert network.connected > INPUTS // 200, "hardly any connection was made: the inputs have become too wild"
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await site.runner.cleanup()


def _hardly_waiting(backoff: Backoff) -> float:
    """In place of `Backoff.next`: it counts, because who retries gives up after so many failures."""
    backoff.failures += 1
    return 0.001


def _fuzz(fuzzer: Fuzzer, loop: asyncio.AbstractEventLoop) -> None:
    """Hypothesis' loop, in a thread of its own beside the agent's event loop."""

    @settings(
        max_examples=INPUTS,
        derandomize=INPUTS <= 2000,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs.inputs)
    def feed(payload: bytes) -> None:
        asyncio.run_coroutine_threadsafe(fuzzer.feed(payload), loop).result()

    feed()
