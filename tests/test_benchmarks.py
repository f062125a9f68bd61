"""The benchmarks can be started; what they measure is nobody's test, for it is another on every machine."""

import importlib
from pathlib import Path

import pytest

from benchmarks import stage

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in ("__init__", "stage"))


@pytest.mark.parametrize("name", NAMES)
def test_arguments(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each benchmark runs without arguments, and says what it does and what it takes."""
    module = importlib.import_module(f"benchmarks.{name}")
    module.parser().parse_args([])
    with pytest.raises(SystemExit) as ended:
        module.parser().parse_args(["--help"])
    assert ended.value.code == 0
    assert f"benchmarks.{name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_each(name: str) -> None:
    """Each benchmark has its command in README.md."""
    assert f"-m benchmarks.{name}" in (FOLDER / "README.md").read_text()


def test_a_missing_program_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not installed is named with the remedy, before anything is started."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    module = importlib.import_module("benchmarks.download")
    assert stage.main(module.parser(), module.run, [], needs=("curl",)) == 1
    assert capsys.readouterr().err == "mosquitto is not installed: sudo apt-get install mosquitto\n"


def test_figures() -> None:
    """A ratio is the median of the pairs' ratios, so one slow moment of the machine does not count."""
    assert stage.ratio([2.0, 20.0, 3.0], [1.0, 10.0, 2.0]) == 2.0
    assert stage.p99([float(n) for n in range(100)]) == 99.0
    assert stage.median([3.0, 1.0, 2.0]) == 2.0
