"""The command line's exit codes, and the one line that goes with each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from printago_moonraker import cli

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = ("run", "pair", "unpair", "doctor", "support", "send", "demo", "virtual-printer", "schema")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_everywhere(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command explains itself and ends well."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert "usage: printago-moonraker" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["send"],
        ["send", "--timeout", "nan", "printer_control.get_status"],
        ["send", "--timeout=-1", "printer_control.get_status"],
        ["demo", "--printers", "0"],
        ["virtual-printer"],
        ["virtual-printer", "--data-path", "x", "--port", "65536"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What the command line cannot mean is said before anything is done."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("command", [["run"], ["unpair"], ["send", "printer_control.get_status"]])
def test_a_broken_configuration_is_78(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """systemd does not restart on it; the reason is one line."""
    file = tmp_path / "printago.cfg"
    file.write_text("[mqttt]\n")
    name, *rest = command
    assert cli.main([name, "-c", str(file), *rest]) == 78
    line = capsys.readouterr().err
    assert line == f"printago-moonraker: {file}: [mqttt]: there is no such section; [mqtt] is meant, perhaps.\n"


def test_a_failure_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    """An error that a person can cause is one line, no traceback."""
    assert cli.main(["schema", "../../nope"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
