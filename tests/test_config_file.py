"""Where the configuration is on each kind of host."""

from __future__ import annotations

from pathlib import Path

import pytest

from printago_moonraker import config_file
from printago_moonraker.config import load
from printago_moonraker.errors import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def put(home: Path, instance: str) -> Path:
    file = home / instance / "config/printago.cfg"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def test_the_usual_host(home: Path) -> None:
    """Where there is nothing, or more than one, it is that of ~/printer_data."""
    assert config_file.default_path() == home / "printer_data/config/printago.cfg"
    put(home, "printer_2_data")
    usual = put(home, "printer_data")
    assert config_file.default_path() == usual


def test_a_host_of_kiauhs(home: Path) -> None:
    """Without ~/printer_data it is the file that install.sh has written: that of the first instance which has one."""
    (home / "printer_1_data/config").mkdir(parents=True)
    second = put(home, "printer_2_data")
    put(home, "printer_3_data")
    assert config_file.default_path() == second
    assert load().path == second


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of whom the system knows no home folder is told to name the file."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match="no home folder; name the configuration with -c"):
        load()
