"""The archive for a bug report: whole, whatever is broken, and without secrets."""

from __future__ import annotations

import errno
import json
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest

from printago_moonraker import credentials, doctor, log, support
from printago_moonraker.credentials import Credentials
from printago_moonraker.errors import AgentError
from tests.fakes.mosquitto import free_port

if TYPE_CHECKING:
    from pathlib import Path

KEY = "pk_live_0123456789abcdefghijKLMNOPQRSTUV"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_secrets", ())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "printago.cfg"
    path.write_text(
        f"[printago]\ndata_path: {tmp_path}/data\nlog_path: {tmp_path}/printago.log\n"
        f"[mqtt]\nhost: 127.0.0.1\nport: {free_port()}\n[printer a]\nmoonraker_url: http://127.0.0.1:{free_port()}\n"
    )
    return path


def unpack(target: Path) -> dict[str, str]:
    with tarfile.open(target) as archive:
        parts = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive.getmembers()}
        return {name: part.read().decode() for name, part in parts.items() if part is not None}


def test_with_everything_down(file: Path, tmp_path: Path) -> None:
    """Neither Moonraker nor broker nor data folder is needed; what is wrong is in it."""
    said: list[str] = []
    assert support.run(file, tmp_path, said.append) == 0
    (target,) = tmp_path.glob("printago-support-*.tar.gz")
    assert said[0].startswith(f"{target}: ")
    contents = unpack(target)
    assert json.loads(contents["doctor.json"])["ok"] is False
    assert json.loads(contents["versions.json"])["packages"]["websockets"]
    assert json.loads(contents["state.json"])["error"] == "No such file or directory"
    assert "[printer a]" in contents["printago.cfg"]


def test_with_a_broken_configuration(file: Path, tmp_path: Path) -> None:
    """The broken file is what is wanted most; a password where none belongs is taken out."""
    file.write_text(
        "[mqtt]\npasword: hunter2\npassword: hunter3 with spaces\npassword_file: /home/pi/key\n"
        "[printer a]\npassword:\n    hunter4\n"
    )
    support.run(file, tmp_path / "report.tar.gz", lambda _: None)
    contents = unpack(tmp_path / "report.tar.gz")
    for secret in ("hunter2", "hunter3", "with spaces", "hunter4"):
        assert secret not in "".join(contents.values())
    assert "password_file: /home/pi/key" in contents["printago.cfg"]
    assert "there is no such option" in contents["state.txt"]


def test_logs_and_their_predecessors(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's end and the rotated ones are in it, of each no more than the newest part."""
    monkeypatch.setattr(support, "MAX_LOG_BYTES", 100)
    for number, name in enumerate(("printago.log", "printago.log.1", "printago.log.2", "printago.log.3")):
        (tmp_path / name).write_text("old\n" * 100 + f"end of {number}\n")
    support.run(file, tmp_path / "report.tar.gz", lambda _: None)
    contents = unpack(tmp_path / "report.tar.gz")
    logs = {name: text for name, text in contents.items() if name.startswith("logs/")}
    assert [text.splitlines()[-1] for text in logs.values()] == ["end of 0", "end of 1", "end of 2"]
    assert max(map(len, logs.values())) <= 100


def test_a_log_in_a_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that this user may not even look for is named, and costs nothing else."""
    log_path = tmp_path / "printago.log"

    def denied(self: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(type(tmp_path), "exists", denied)
    monkeypatch.setattr(type(tmp_path), "open", denied)
    assert support._logs(log_path) == {"logs/printago.log": f"{log_path}: Permission denied\n"}


def test_the_key_is_nowhere(file: Path, tmp_path: Path) -> None:
    """The pairing's key is taken out wherever a log has it, and so is what looks like one."""
    credentials.write(tmp_path / "data", Credentials("store-1", KEY))
    (tmp_path / "printago.log").write_text(f"the key {KEY} and its id {KEY[:24]}\n")
    support.run(file, tmp_path / "report.tar.gz", lambda _: None)
    target = tmp_path / "report.tar.gz"
    contents = unpack(target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert contents["logs/printago.log"] == "the key *** and its id ***\n"
    assert all(KEY[:24] not in text for text in contents.values())
    assert json.loads(contents["state.json"])["files"]["credentials.json"]["mode"] == "0600"


def test_a_key_in_the_place_of_its_file(file: Path, tmp_path: Path) -> None:
    """A key that was typed where the name of its file belongs is nowhere in the archive, not even as an error."""
    text = file.read_text()
    for number, line in enumerate(("[mqtt]\nusername: store-1\npassword_file: {}", "{}\nmoonraker_api_key_file: {}")):
        file.write_text(line.format(KEY, KEY) if not number else f"{text}moonraker_api_key_file: {KEY}\n")
        support.run(file, tmp_path / f"report-{number}.tar.gz", lambda _: None)
        contents = unpack(tmp_path / f"report-{number}.tar.gz")
        assert KEY[:12] not in "".join(contents.values())
        assert "_file: ***" in contents["printago.cfg"]
        assert "_file: is not an absolute path" in contents["state.txt"]


def test_a_doctor_with_a_defect(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of the doctor's is in the archive, and costs nothing else of it."""

    async def examine(_given: Path | None) -> None:
        raise TypeError("a defect")

    monkeypatch.setattr(doctor, "examine", examine)
    assert support.run(file, tmp_path / "report.tar.gz", lambda _: None) == 0
    contents = unpack(tmp_path / "report.tar.gz")
    assert "TypeError: a defect" in json.loads(contents["doctor.json"])["error"]
    assert "[printer a]" in contents["printago.cfg"]


def test_nothing_is_overwritten(file: Path, tmp_path: Path) -> None:
    """A file that is there stays as it is, and the place can be changed."""
    target = tmp_path / "mine"
    target.write_text("precious")
    with pytest.raises(AgentError, match="--output"):
        support.run(file, target, lambda _: None)
    assert target.read_text() == "precious"
