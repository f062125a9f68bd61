"""The README's commands, pasted in their order on a throw-away host, as its owner would."""

from __future__ import annotations

import asyncio
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.fakes.account import KEY, STORE, account_broker
from tests.fakes.moonraker import FakeMoonraker
from tests.install.host import NAME, ROOT, Host

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)

READY = {"state": "ready", "state_message": "Printer is ready", "software_version": "v0.13.0", "hostname": "h"}
SERVER = {"klippy_connected": True, "klippy_state": "ready", "moonraker_version": "v0.11.0"}


def commands() -> list[str]:
    """What is indented below "Install on a Klipper host", line by line."""
    text = (ROOT / "README.md").read_text("utf-8").partition("## Install on a Klipper host\n")[2].partition("\n## ")[0]
    return re.findall(r"^    (\S.*)$", text, re.MULTILINE)


async def paste(host: Host, command: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """In the user's home folder, by a shell."""
    return await asyncio.to_thread(
        subprocess.run,
        ["/bin/sh", "-c", command],
        cwd=host.home, env=host.environ(), input=typed, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_these_are_the_commands() -> None:
    """The section has these five, and the test below pastes each."""
    assert commands() == [
        f"git clone URL-OF-THIS-REPOSITORY ~/{NAME}",
        f"cd ~/{NAME}",
        "./install.sh",
        f"~/{NAME}-env/bin/{NAME} pair",
        f"~/{NAME}-env/bin/{NAME} doctor",
    ]


@pytest.mark.parametrize("instances", [["printer_data"], ["printer_1_data", "printer_2_data"]])
async def test_pasted_in_order(instances: list[str], tmp_path: Path, environment: Path) -> None:
    """On the usual host and on one of KIAUH's, without -c: `pair` stores where the service looks, `doctor` sees it
    paired, `unpair` forgets it; and no command needs to be told where the configuration is.
    """
    clone, _, install, pair, doctor = commands()
    async with account_broker(tmp_path) as broker, FakeMoonraker() as moonraker:
        moonraker.answers |= {"server.info": SERVER, "printer.info": READY, "server.webcams.list": {"webcams": []}}
        host = Host(tmp_path / "host")
        for instance in instances:
            host.add_instance(instance, moonraker.port)
        remote = host.publish()
        host.clone.rename(tmp_path / "published")
        done = await paste(host, clone.replace("URL-OF-THIS-REPOSITORY", str(remote)))
        assert done.returncode == 0, done.stderr
        host.borrow(environment)
        assert install == "./install.sh"
        said = host.install("--non-interactive").stdout
        config = host.config(instances[0])
        assert f"run -c {config}\n" in host.unit.read_text()
        assert f"{host.environment}/bin/{NAME} pair" in said

        with config.open("a") as file:  # a broker of one's own, in Printago's place
            file.write(f"[mqtt]\nhost: 127.0.0.1\nport: {broker.port}\ntls: off\n")
        done = await paste(host, f"{pair} --store-id {STORE}", f"{KEY}\n")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert (host.home / instances[0] / "printago/credentials.json").is_file()
        done = await paste(host, doctor)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert f"✓ login            as {STORE}" in done.stdout
        assert str(config) in done.stdout
        done = await paste(host, pair.replace(" pair", " unpair"))
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert not (host.home / instances[0] / "printago/credentials.json").exists()
        assert not (host.home / "printer_data").exists() or "printer_data" in instances


async def test_a_remedy_can_be_pasted(tmp_path: Path, environment: Path) -> None:
    """What `doctor` says to do is a command that works as it stands, for a configuration that was named, too."""
    async with account_broker(tmp_path) as broker:
        host = Host(tmp_path / "host", "printer_1_data")
        host.borrow(environment)
        host.install("--non-interactive")
        host.config("printer_1_data").unlink()
        mine = host.home / "my printers.cfg"
        mine.write_text(
            f"[printago]\ndata_path: {host.home}/data\n[mqtt]\nhost: 127.0.0.1\nport: {broker.port}\ntls: off\n"
        )
        program = f"{host.environment}/bin/{NAME}"
        done = await paste(host, f"{program} doctor --json -c 'my printers.cfg'")
        (remedy,) = re.findall(rf"Run ({re.escape(program)} pair -c '.*?') again", done.stdout)
        done = await paste(host, f"{remedy} --store-id {STORE}", f"{KEY}\n")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout

        done = await paste(host, f"{program} pair --store-id {STORE}", f"{KEY}\n")
        assert done.returncode == 1
        assert f"this host has {host.home}/printer_1_data: run install.sh first, or name" in done.stderr


def test_the_fleets_commands_are_those_of_the_program() -> None:
    """The loop for ten hosts is shell that a shell can read, and uses options that the programs have."""
    page = (ROOT / "docs/install.md").read_text("utf-8")
    section = page.partition("## Ten hosts in one evening\n")[2].partition("\n## ")[0]
    loop = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    subprocess.run(["/bin/sh", "-n", "-c", loop], check=True)
    usage = subprocess.run([ROOT / "install.sh", "--help"], capture_output=True, text=True, check=True).stdout
    options = re.findall(r"install\.sh (--[^']*)'", loop)[0].split()
    assert options == ["--non-interactive", "--update-manager"]
    assert all(option in usage for option in options)
    for command in re.findall(rf"~/{NAME}-env/bin/{NAME} (\w+)", loop):
        assert command in ("pair", "doctor")
