"""A Klipper host in a throw-away folder: home, clone, root for units, packages for pip, and a user who is not root.

Stubs stand for `systemctl` and `sudo`, and log what they are asked. Everything else is real: sh, git, venv, pip.
"""

from __future__ import annotations

import hashlib
import os
import pty
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = "printago-moonraker"
MOONRAKER = "[server]\nhost: 0.0.0.0\nport: {port}\n"
REQUIREMENTS = "printago_moonraker/host/requirements.txt"
# What a host has of all this is what install.sh may use: a name that is missing here is missing there.
TOOLS = (
    "awk", "basename", "cat", "chmod", "df", "dirname", "git", "grep", "id", "install", "mkdir", "mv", "rm", "sed",
    "sh", "sort", "tail", "tr", "true", "uname",
)  # fmt: skip
STUBS = {
    "systemctl": 'echo "systemctl $*" >>"$STUB_LOG"\n[ "$1" != is-system-running ] || echo "$STUB_SYSTEMD"\n',
    "sudo": 'echo "sudo $*" >>"$STUB_LOG"\n[ "$1" != -n ] || shift\n[ -z "$STUB_PASSWORD" ] || exit 1\n'
    '[ "$1" = -v ] || exec "$@"\n',
}


def program(name: str, package: str) -> str:
    """Fails the test when it is not installed, because a skipped test looks like a passed one."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: sudo apt-get install {package}", pytrace=False)
    return found


def wheel(folder: Path, name: str, version: str, module: str, text: str) -> None:
    """A package of one file, for pip to find in `folder`."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        archive.writestr(module, text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def snapshot(*folders: Path) -> dict[str, str]:
    """Every file, link and folder below, with its mode and the hash of what is in it."""
    found = {}
    for path in (path for folder in folders for path in [folder, *folder.rglob("*")]):
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes().hex() if path.is_file() else ""
        found[str(path)] = f"{path.lstat().st_mode:o} {hashlib.sha256(content.encode()).hexdigest()}"
    return found


def make_environment(folder: Path) -> Path:
    """A virtual environment with pip, and nothing else in it."""
    subprocess.run([Path(sys.base_prefix) / "bin/python3", "-m", "venv", folder / "environment"], check=True)
    return folder / "environment"


class Host:
    """One machine. `python` is what `python3` is there; None: whatever these tests run on."""

    def __init__(self, folder: Path, *instances: str, python: str | None = None) -> None:
        self.folder = folder
        self.home, self.root, self.bin, self.wheels = (folder / name for name in ("home", "root", "bin", "wheels"))
        self.clone, self.environment = self.home / NAME, self.home / f"{NAME}-env"
        self.unit = self.root / "etc/systemd/system" / f"{NAME}.service"
        self.log = folder / "stubs.log"
        for path in (self.bin, self.wheels, self.unit.parent):
            path.mkdir(parents=True)
        self._make_tools(python)
        self._make_clone()
        self._make_wheels()
        for number, instance in enumerate(instances):
            self.add_instance(instance, 7125 + number)

    def _make_tools(self, python: str | None) -> None:
        for tool in TOOLS:
            (self.bin / tool).symlink_to(program(tool, tool))
        for name, text in STUBS.items():
            (self.bin / name).write_text(f"#!/bin/sh\n{text}")
            (self.bin / name).chmod(0o755)
        if python is None:
            (self.bin / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
        else:
            (self.bin / "python3").write_text(f"#!/bin/sh\n{python}")
            (self.bin / "python3").chmod(0o755)

    def _make_clone(self) -> None:
        """What a `git clone` of the working tree would have, uncommitted changes included."""
        unwanted = shutil.ignore_patterns("__pycache__", "samples")
        for name in ("printago_moonraker", "schemas"):
            shutil.copytree(ROOT / name, self.clone / name, ignore=unwanted)
        for name in ("install.sh", "moonraker.conf.example", "README.md", ".gitignore"):
            shutil.copy2(ROOT / name, self.clone)

    def _make_wheels(self) -> None:
        """Packages by the names of the real ones, which lead to those that these tests run with."""
        there = next(path for path in sys.path if path.endswith("site-packages"))
        for line in (ROOT / REQUIREMENTS).read_text().splitlines():
            if line and not line.startswith("#"):
                name, version = line.split(",")[0].split(">=")
                wheel(self.wheels, name, version, f"{name}-for-tests.pth", f"{there}\n")

    def add_instance(self, name: str, port: int) -> Path:
        """A Moonraker of the user's, as it is after its first start."""
        data = self.home / name
        for folder in ("config", "logs", "gcodes"):
            (data / folder).mkdir(parents=True)
        (data / "config" / "moonraker.conf").write_text(MOONRAKER.format(port=port))
        (data / "config" / "printer.cfg").write_text("[printer]\nkinematics: none\n")
        (data / "moonraker.asvc").write_text("klipper_mcu\nwebcamd")  # Moonraker writes it without a last new line
        return data

    def borrow(self, environment: Path) -> None:
        """Have an environment already, as install.sh makes it first: that alone takes seconds."""
        shutil.copytree(environment, self.environment, symlinks=True)

    def git(self, *arguments: str, folder: Path | None = None) -> str:
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main")
        command = ["git", *identity, *arguments]
        result = subprocess.run(
            command, cwd=folder or self.clone, env=self.environ(), capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout.strip()

    def publish(self) -> Path:
        """Make the clone one of a bare repository, which is returned."""
        remote = self.folder / "remote.git"
        self.git("init", "--quiet", "--bare", str(remote), folder=self.folder)
        for command in ("init --quiet", "add .", "commit --quiet -m one", f"remote add origin {remote}"):
            self.git(*command.split())
        self.git("push", "--quiet", "-u", "origin", "main")
        return remote

    def environ(self, **more: str) -> dict[str, str]:
        return {
            "HOME": str(self.home), "PATH": str(self.bin), "DESTDIR": str(self.root), "LANG": "C.UTF-8",
            "STUB_LOG": str(self.log), "STUB_SYSTEMD": "running", "STUB_PASSWORD": "",
            "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_NO_CACHE_DIR": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        } | more  # fmt: skip

    def install(
        self, *options: str, root: bool = False, before: str = "", typed: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run install.sh as an ordinary user (Debian's `daemon`) or as root, after the shell commands `before`.

        A user namespace makes it so, whoever runs the tests; the files belong to that user. `typed` comes from a
        terminal.
        """
        # No network: what install.sh and doctor say must not depend on this machine's.
        user = ("--map-root-user", "--mount") if root else ("--map-user=1", "--map-group=1")
        command = [program("unshare", "util-linux"), "--user", "--net", *user, program("sh", "dash"), "-c"]
        script = f'{before}\nexec "{self.clone}/install.sh" "$@"'
        keyboard, terminal = pty.openpty()
        try:
            os.write(keyboard, typed.encode())
            return subprocess.run(
                [*command, script, "install.sh", *options],
                cwd=self.home, env=self.environ(**environment), stdin=terminal if typed else subprocess.DEVNULL,
                capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
        finally:
            os.close(keyboard)
            os.close(terminal)

    def installed(self, *options: str, **environment: str) -> str:
        """What an installation that succeeds says."""
        result = self.install(*options, root=False, before="", typed="", **environment)
        assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
        return result.stdout

    def asked(self) -> list[str]:
        """What the stubs were asked for, beyond questions."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if "is-system-running" not in line and line not in ("sudo -n true", "sudo -v")]

    def config(self, instance: str = "printer_data") -> Path:
        return self.home / instance / "config" / "printago.cfg"

    def agent(self, *arguments: str) -> str:
        """What the installed program prints."""
        result = subprocess.run(
            [str(self.environment / "bin" / NAME), *arguments],
            cwd=self.home, env=self.environ(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout
