"""What a remedy tells a person to type."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from printago_moonraker import program


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program, "_named", None)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_it_is_the_program_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """install.sh puts nothing on PATH, so a remedy has the program's whole path, fit for a shell."""
    monkeypatch.setattr(sys, "argv", [f"{tmp_path}/my env/bin/printago-moonraker"])
    assert program.command("pair") == f"'{tmp_path}/my env/bin/printago-moonraker' pair"


def test_a_program_on_path_needs_no_more_than_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed by pip into an environment that is active, the name alone is what a person types."""
    installed = tmp_path / "printago-moonraker"
    installed.write_text("#!/bin/sh\n")
    installed.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(installed)])
    assert program.command("pair") == "printago-moonraker pair"


def test_it_is_the_module_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as `python -m printago_moonraker`, that is what is to be typed."""
    monkeypatch.setattr(sys, "argv", ["/x/printago_moonraker/__main__.py"])
    assert program.command("doctor") == f"{sys.executable} -m printago_moonraker doctor"


def test_a_file_that_was_named_is_named_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has named a configuration needs it in the remedy too, by its whole path; the default one needs no name."""
    monkeypatch.chdir(tmp_path)
    program.called_with(Path("a b.cfg"))
    assert program.command("pair") == f"printago-moonraker pair -c '{tmp_path}/a b.cfg'"
    program.called_with(tmp_path / "printer_data/config/printago.cfg")
    assert program.command("pair") == "printago-moonraker pair"
