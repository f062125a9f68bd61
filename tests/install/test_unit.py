"""The systemd unit, judged by systemd's own tools. They do not need systemd to run."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.install.host import NAME, ROOT, program

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = ROOT / f"printago_moonraker/host/{NAME}.service"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The template filled in, with something to start."""
    text = TEMPLATE.read_text()
    start = tmp_path / "bin" / NAME
    start.parent.mkdir()
    start.write_text("#!/bin/sh\n")
    start.chmod(0o755)
    for name in ("REPO", "VENV", "DATA", "LOGS", "CONFIG"):
        text = text.replace(f"@{name}@", str(tmp_path))
    file = tmp_path / f"{NAME}.service"
    file.write_text(text.replace("@USER@", "daemon"))
    return file


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program("systemd-analyze", "systemd"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_systemd_understands_the_unit(unit: Path) -> None:
    """systemd finds no unknown option and nothing that contradicts."""
    result = analyze("verify", "--man=no", unit)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSeconds="))
    assert "WatchdogSeconds" in analyze("verify", "--man=no", unit).stderr


def test_the_unit_is_hardened(unit: Path) -> None:
    """`systemd-analyze security` gives an exposure of 3.0 at most."""
    threshold = ("security", "--offline=true", "--no-pager", "--threshold=30")
    result = analyze(*threshold, unit)
    assert result.returncode == 0, result.stdout
    hardening = ("Protect", "Restrict", "SystemCall", "CapabilityBoundingSet", "Private")
    unit.write_text("\n".join(line for line in unit.read_text().splitlines() if not line.startswith(hardening)))
    assert analyze(*threshold, unit).returncode != 0


def test_what_a_restart_is_for() -> None:
    """systemd starts it again whatever happened, but for a broken configuration, and does not give up."""
    lines = TEMPLATE.read_text().splitlines()
    wanted = {"Restart=always", "RestartPreventExitStatus=78", "StartLimitIntervalSec=0", "WatchdogSec=60"}
    assert wanted <= set(lines)
