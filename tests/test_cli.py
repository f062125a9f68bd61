"""The command line's exit codes, and the one line that goes with each."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from printago_moonraker import cli
from tests.fakes.mosquitto import free_port

ROOT = Path(__file__).parent.parent
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


# ---- as a process


def process(*arguments: str | Path, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The program, run by a shell with the redirections `shell` behind it."""
    command = [sys.executable, "-m", "printago_moonraker", *map(str, arguments)]
    return subprocess.run(
        ["/bin/sh", "-c", f'"$@" {shell}', "sh", *command],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip


@pytest.fixture
def down(tmp_path: Path) -> Path:
    """A configuration of which nothing is there."""
    file = tmp_path / "printago.cfg"
    file.write_text(
        f"[printago]\ndata_path: {tmp_path}/data\n[mqtt]\nhost: 127.0.0.1\nport: {free_port()}\ntls: off\n"
        f"[printer Drücker]\nmoonraker_url: http://127.0.0.1:{free_port()}\n",
        "utf-8",
    )
    return file


def one_line(result: subprocess.CompletedProcess[str], code: int) -> str:
    assert result.returncode == code, result
    (line,) = result.stderr.splitlines()
    assert line.startswith("printago-moonraker: ")
    return line


@pytest.mark.parametrize("command", ["doctor", "schema", "support", "--help"])
def test_a_full_disk_at_the_other_end(command: str, down: Path, tmp_path: Path) -> None:
    """Output that cannot be written is one line and exit code 1, never a traceback."""
    options: dict[str, list[str | Path]] = {
        "doctor": ["-c", down],
        "support": ["-c", down, "--output", tmp_path],
    }
    line = one_line(process(command, *options.get(command, []), shell=">/dev/full", PYTHONUNBUFFERED=""), 1)
    assert "standard output: No space left on device" in line


def test_a_full_disk_for_errors_too(tmp_path: Path) -> None:
    """Where even the complaint cannot be written, the exit code still is the right one."""
    result = process("unpair", "-c", tmp_path / "nope.cfg", shell="2>/dev/full")
    assert (result.returncode, result.stderr) == (78, "")


def test_a_reader_who_is_gone(down: Path) -> None:
    """A failed doctor has failed also when nobody reads it any more, and nothing is said about that."""
    for command in (["doctor", "-c", down], ["schema"]):
        result = process(*command, shell="| true; exit 0")
        assert result.stderr == ""
        with subprocess.Popen(
            [sys.executable, "-m", "printago_moonraker", *map(str, command)],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as program:  # fmt: skip
            assert program.stdout is not None
            assert program.stderr is not None
            program.stdout.close()
            assert program.stderr.read() == b""
            assert program.wait(20) == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, down: Path) -> None:
    """A caller who has closed standard input, output or error gets the same exit codes, and no traceback."""
    assert "Traceback" not in (result := process("doctor", "-c", down, shell=closed)).stderr
    assert result.returncode == 1
    result = process("pair", "-c", down, "--store-id", "s", shell=closed)
    assert "Traceback" not in result.stderr
    assert result.returncode == 2
    assert "2>" in closed or "the API key must be one word" in result.stderr


def test_a_terminal_without_umlauts(down: Path) -> None:
    """A name that the terminal cannot show has a ? in it."""
    result = process("doctor", "-c", down, PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (1, "")
    assert "Dr?cker" in result.stdout
    result = process("send", "-c", down, "--printer", "Träger", "a.b", PYTHONIOENCODING="ascii")
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)


def test_a_current_folder_that_is_gone(tmp_path: Path) -> None:
    """In a folder that was deleted, a relative name is one line."""
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'cd "{gone}" && rmdir "{gone}" && exec "{sys.executable}" -m printago_moonraker doctor --json -c x.cfg'
    result = subprocess.run(
        ["/bin/sh", "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (1, "")
    assert "the current folder is gone" in result.stdout


def typed(*arguments: str | Path, keys: list[tuple[bytes, bytes]]) -> tuple[int, str]:
    """The program on a terminal, where `keys` are typed: after which text, what. Exit code, and what it said."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "printago_moonraker", *map(str, arguments)])
    said, deadline = b"", time.monotonic() + 20
    while time.monotonic() < deadline:
        if keys and keys[0][0] in said:
            time.sleep(0.1)  # getpass has written its prompt before it reads
            os.write(terminal, keys.pop(0)[1])
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                said += os.read(terminal, 4096)
            except OSError:  # the other side is closed
                break
    else:
        os.kill(child, signal.SIGKILL)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.decode()


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ([(b"Store ID: ", b"\x04")], 2),
        ([(b"Store ID: ", b"s\n"), (b"hidden): ", b"\x04")], 2),
        ([(b"Store ID: ", b"\x03")], 130),
        ([(b"Store ID: ", b"s\n"), (b"hidden): ", b"\x03")], 130),
    ],
)
def test_a_person_who_thinks_better_of_it(keys: list[tuple[bytes, bytes]], code: int, down: Path) -> None:
    """Ctrl-D and Ctrl-C at either question end it with their exit code, without a traceback, and nothing is stored."""
    ended, said = typed("pair", "-c", down, keys=list(keys))
    assert ended == code, said
    assert "Traceback" not in said
    assert code == 130 or "nothing was entered" in said
    assert not (down.parent / "data").exists()
