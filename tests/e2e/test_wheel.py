"""What is installed from the built wheel, without the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


@pytest.mark.timeout(180)  # builds, and downloads what the agent depends on
def test_the_wheel_is_whole(tmp_path: Path) -> None:
    """The wheel alone, in a new environment, has the program, its schemas and the demo's sample."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(*pip, "--python", python, "install", "--quiet", wheel, cwd=tmp_path)
    program = tmp_path / "venv" / "bin" / "printago-moonraker"
    assert run(program, "--version", cwd=tmp_path).startswith("printago-moonraker ")
    folder, *names = run(program, "schema", cwd=tmp_path).splitlines()
    ours = {
        file.relative_to(ROOT / "schemas").with_suffix("").as_posix() for file in (ROOT / "schemas").rglob("*.json")
    }
    assert set(names) == ours
    assert Path(folder).is_relative_to(tmp_path)
    assert json.loads(run(program, "schema", "commands/printer_control.start_print", cwd=tmp_path))["type"] == "object"
    sample = (
        "import printago_moonraker.virtual as v, pathlib; print(pathlib.Path(v.__file__).parent / 'samples/demo.gcode')"
    )
    assert Path(run(python, "-c", sample, cwd=tmp_path).strip()).stat().st_size > 100_000
