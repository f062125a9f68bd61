"""`printago-moonraker demo` as a person runs it: a process, its exit code, what it prints, what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.fakes.processes import ending_with_us

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = (sys.executable, "-m", "printago_moonraker", "demo")
STEPS = (
    *("paired: ", "downloaded: ", "printing: ", "refused: jog: busy", "refused: set_hotend: out_of_range"),
    *("refused: download_gcode: forbidden_path", "paused at ", "resumed", "picture taken: 640x480 pixels"),
    *("done: ", "9 commands, one answer each; one print, one end", "the print's progress never fell"),
    *("Klipper itself counts one print", "the agent was stopped", "all 14 steps confirmed"),
)

pytestmark = pytest.mark.timeout(120)  # the first one may have to make Moonraker's environment


class Demo:
    """A running demo, with its own temporary folder, where nothing may be left."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def read_until(self, text: str) -> None:
        """Read its output up to the line with `text`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return
        pytest.fail(f"{text!r} never came:\n" + "\n".join(self.lines))

    def end(self) -> int:
        """Read the rest; the exit code."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait()

    def descendants(self) -> set[int]:
        """Its processes: the agent, the printers' Klippy and Moonraker."""
        return set(_children(self.process.pid))


@contextmanager
def demo(tmp: Path, *options: str) -> Iterator[Demo]:
    # Not pytest's folder: a unix socket's name has 107 bytes at most, and that one is long.
    environment = {**os.environ, "TMPDIR": str(tmp), "PYTHONUTF8": "1"}
    with subprocess.Popen(
        ending_with_us(*DEMO, *options),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            yield Demo(process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(30)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder with a short name, which must be empty again afterwards, but for the pictures."""
    path = Path(f"/tmp/demo-{os.getpid()}-{time.monotonic_ns() % 10**9}")
    path.mkdir(mode=0o700)
    yield path
    for pictures in path.glob("printago-demo-*"):
        for picture in pictures.glob("voron-*.jpg"):
            picture.unlink()
        pictures.rmdir()
    path.rmdir()  # fails when something is left in it


def test_every_step_of_each_printer_is_confirmed(folder: Path) -> None:
    """The demo plays its whole story with each printer, says so step by step, and ends with 0."""
    with demo(folder, "--printers", "2") as running:
        code = running.end()
    output = "\n".join(running.lines)
    assert code == 0, output
    for name in ("voron-1", "voron-2"):
        confirmed = [line.partition("✓ ")[2] for line in running.lines if f" {name}   ✓ " in line]
        assert [line[: len(step)] for line, step in zip(confirmed, STEPS, strict=True)] == list(STEPS), output
    assert not any("\x1b" in line or "\r" in line for line in running.lines), "colours and cursor moves in a pipe"
    for picture in [line.rpartition(" ")[2] for line in running.lines if "picture taken" in line]:
        with Image.open(picture) as image:
            image.load()
            assert (image.format, image.size) == ("JPEG", (640, 480))
    shares = [int(share) for share in re.findall(r"voron-1 .*░ +(\d+) %  layer", output)]
    assert len(shares) >= 3, "no progress was shown"
    assert shares == sorted(shares), "the progress went back"


def test_a_step_that_is_not_confirmed_fails_the_demo_by_its_name(folder: Path, tmp_path: Path) -> None:
    """A print that fails half-way gives exit code 1, the step's name, and the printer's own words."""
    bad = tmp_path / "bad.gcode"
    bad.write_text("G28\nG1 X10 Y10 F3000\nG1 X500 F3000\n")
    with demo(folder, "--file", str(bad)) as running:
        code = running.end()
    assert code == 1
    assert any("✗" in line and "failed at refuse: the print ended: Move out of range" in line for line in running.lines)


def test_a_dead_agent_fails_the_demo_at_once(folder: Path) -> None:
    """When the agent's process dies, the demo ends with 1 and says where the story was."""
    with demo(folder) as running:
        running.read_until("paired")
        agent = next(pid for pid in running.descendants() if b"\0run\0" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(agent, signal.SIGKILL)
        code = running.end()
    assert code == 1
    assert any("failed at download: the agent ended with exit code -9" in line for line in running.lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_it_leaves_no_process_behind(folder: Path, number: signal.Signals) -> None:
    """Ctrl-C in the middle ends everything that the demo has started, in an orderly way, with 130."""
    with demo(folder) as running:
        running.read_until("paired")
        processes = running.descendants()
        assert len(processes) == 3, "the agent, Klippy and Moonraker"
        running.process.send_signal(number)
        code = running.end()
    assert code == 130
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]
    assert not any("Traceback" in line for line in running.lines)


def test_keep_leaves_it_running_until_it_is_stopped(folder: Path, tmp_path: Path) -> None:
    """With --keep the commands that it prints work, and stopping it then is a good end."""
    short = tmp_path / "short.gcode"
    short.write_text("M104 S200\nG28\n" + "".join(f"G1 X{x % 200 + 10} Y10 F6000\n" for x in range(0, 3600, 30)))
    with demo(folder, "--keep", "--file", str(short)) as running:
        running.read_until("Moonraker: http")
        command = next(line for line in running.lines if line.endswith("printer_control.get_status"))
        answer = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        assert (answer.returncode, '"OPERATIONAL"' in answer.stdout) == (0, True), answer.stdout + answer.stderr
        running.process.send_signal(signal.SIGINT)
        code = running.end()
    assert code == 0, "\n".join(running.lines)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import sys; sys.modules['amqtt'] = None; options = []", 'pip install "printago-moonraker[demo]"'),
        ("options = ['--file', '/no/such.gcode']", "/no/such.gcode cannot be read: No such file or directory"),
    ],
)
def test_what_a_person_can_cause_is_one_line(code: str, sentence: str) -> None:
    """A missing extra and a missing file give one line that says what to do, and 1."""
    code += "\nfrom printago_moonraker.cli import main\nraise SystemExit(main(['demo', *options]))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())
