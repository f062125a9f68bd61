"""An update by the real Moonraker, from what install.sh has written, with a remote of its own and no network at all."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker.virtual.moonraker_env import find_or_make
from tests.install.host import NAME, REQUIREMENTS, Host, program, wheel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.timeout(120)  # Moonraker starts twice, and runs pip

END = b"\x03"
WARNED = ("warnings", "anomalies")
CONFIG = """\
[server]
host: 0.0.0.0
port: 7125

[machine]
provider: systemd_cli
validate_service: False
validate_config: False

[file_manager]
enable_object_processing: False

[announcements]
enable_moonlight: False

[update_manager]
enable_system_updates: False
"""


class Moonraker:
    """The process, and its unix socket, which trusts everybody."""

    def __init__(self, python: Path, host: Host) -> None:
        self._socket = host.home / "printer_data/comms/moonraker.sock"
        self._socket.unlink(missing_ok=True)
        self._output = (host.folder / "moonraker.out").open("w+")
        # A network namespace of its own has no network: not its loopback either, hence the unix socket.
        self.process = subprocess.Popen(
            [
                program("unshare", "util-linux"), "--user", "--map-root-user", "--net",
                str(python), "-m", "moonraker", "-d", str(host.home / "printer_data"),
            ],
            cwd=host.home, env=host.environ(), stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
        )  # fmt: skip

    def call(self, method: str, **params: Any) -> Any:
        """One JSON-RPC call; an error answer fails the test."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self._socket))
            request = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}
            connection.sendall(json.dumps(request).encode() + END)
            received = b""
            while True:
                received += connection.recv(1 << 16)
                *messages, received = received.split(END)
                for message in map(json.loads, messages):
                    if "id" in message:
                        assert "error" not in message, message
                        return message["result"]

    def update_status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.call("machine.update.status")["version_info"][NAME]
        return status

    def wait_for(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                if true():
                    return
            except OSError:
                pass
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.1)

    def output(self) -> str:
        self._output.seek(0)
        return self._output.read()[-4000:]

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            self._output.close()


@contextmanager
def running(python: Path, host: Host) -> Iterator[Moonraker]:
    moonraker = Moonraker(python, host)
    try:
        moonraker.wait_for(lambda: bool(moonraker.call("server.info")))
        yield moonraker
    finally:
        moonraker.close()


def release(host: Host, remote: Path) -> None:
    """Publish a version 99.0 that needs one package more."""
    work = host.folder / "work"
    host.git("clone", "--quiet", str(remote), str(work), folder=host.folder)
    (work / "printago_moonraker/__init__.py").write_text('__version__ = "99.0"\n')
    with (work / REQUIREMENTS).open("a") as requirements:
        requirements.write("brand-new>=1\n")
    host.git("commit", "--quiet", "-a", "-m", "two", folder=work)
    host.git("push", "--quiet", folder=work)


@pytest.fixture(name="folder")
def fixture_folder() -> Iterator[Path]:
    """A folder with a short name: a unix socket's path has 107 bytes, and pytest's own folders use most of them up."""
    with tempfile.TemporaryDirectory(prefix="update-") as name:
        yield Path(name)


def test_an_update_by_moonraker(folder: Path, environment: Path) -> None:
    """Moonraker takes the entry without a warning, sees the newer commit, and brings its code and its dependency."""
    python = asyncio.run(find_or_make(print))
    host = Host(folder, "printer_data")
    host.borrow(environment)
    (host.home / "printer_data/config/moonraker.conf").write_text(CONFIG)
    (host.home / "printer_data/moonraker.asvc").unlink()
    with running(python, host):
        pass  # its first start, which makes moonraker.asvc
    remote = host.publish()
    host.installed("--non-interactive", "--update-manager")
    host.asked()
    with running(python, host) as moonraker:
        moonraker.wait_for(lambda: bool(moonraker.update_status()["is_valid"]))
        info = moonraker.call("server.info")
        assert (info["warnings"], info["failed_components"]) == ([], [])
        status = moonraker.update_status()
        assert [status[name] for name in WARNED] == [[], []]
        assert status["info_tags"] == ["desc=Printer agent for Printago"]
        assert status["commits_behind_count"] == 0

        wheel(host.wheels, "brand-new", "1.0", "brand_new.py", "answer = 42\n")
        release(host, remote)
        status = moonraker.call("machine.update.refresh", name=NAME)["version_info"][NAME]
        assert status["commits_behind_count"] == 1
        assert moonraker.call("machine.update.client", name=NAME) == "ok"

        status = moonraker.update_status()
        assert status["is_valid"], status
        assert (status["commits_behind_count"], status["current_hash"]) == (0, status["remote_hash"])
    assert host.agent("--version") == f"{NAME} 99.0\n"
    subprocess.run([host.environment / "bin/python", "-c", "import brand_new"], check=True)
    assert f"systemctl restart {NAME}" in host.asked()
