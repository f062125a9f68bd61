"""Files come whole or not at all, prints start seen or not at all, and the folder stays small."""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.klipper import PATH, bench, printing
from tests.fakes.moonraker import Refusal
from tests.fakes.source import FakeSource, Reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.klipper import Bench

CONTENT = b"G28\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("printago_moonraker.moonraker.http.UPLOAD_SPACING", 0.0)


def directory(*names: str, total: int = 10**10, free: int = 5 * 10**9) -> dict[str, Any]:
    """A folder's files, the newest first."""
    files = [{"filename": name, "modified": 1000.0 - age, "size": 1} for age, name in enumerate(names)]
    return {"files": files, "dirs": [], "disk_usage": {"total": total, "free": free}}


async def download(it: Bench, reply: Reply, **parameters: Any) -> tuple[str, dict[str, Any]]:
    it.moonraker.answers.setdefault("server.files.get_directory", directory())
    async with FakeSource(reply) as source:
        return await it.run("printer_control.download_gcode", {"url": source.url, **parameters})


def events(it: Bench) -> list[str]:
    return [name for name, _ in it.emitted]


async def test_a_download_arrives_whole(tmp_path: Path) -> None:
    """The answer and the events say what lies where; sizes and sums are those of the file."""
    async with bench(tmp_path) as it:
        kind, data = await download(it, Reply(200, CONTENT), size=len(CONTENT), sha256=SHA256, job_id="job-7")
        assert kind == "success"
        assert {name: data[name] for name in ("file_name", "path", "size", "sha256")} == {
            "file_name": "a.gcode",
            "path": "Printago/a.gcode",
            "size": len(CONTENT),
            "sha256": SHA256,
        }
        assert 0 <= data["duration"] < 5
        (upload,) = it.moonraker.uploads
        assert upload.complete
        assert CONTENT[:100] in upload.head
        assert events(it) == ["TransferStarted", "TransferDone", "MetadataAnalysisFinished"]
        assert it.emitted[1][1] == {
            "name": "a.gcode",
            "path": "Printago/a.gcode",
            "origin": "local",
            "size": len(CONTENT),
            "job_id": "job-7",
            "source": "printago",
            "time": data["duration"],
        }


@pytest.mark.parametrize(
    ("reply", "parameters", "code"),
    [
        (Reply(404, b"no"), {}, "download_failed"),
        (Reply(200, CONTENT), {"sha256": "0" * 64}, "checksum_mismatch"),
        (Reply(200, CONTENT), {"size": 5}, "checksum_mismatch"),
        (Reply(200, CONTENT), {"file_name": "a.3mf"}, "download_failed"),
        (Reply(200, b"PK\x03\x04 not really"), {}, "download_failed"),
    ],
)
async def test_a_download_that_fails(tmp_path: Path, reply: Reply, parameters: dict[str, Any], code: str) -> None:
    """One code in answer and event, no file on the printer, and no secret of the URL told."""
    async with bench(tmp_path) as it:
        kind, data = await download(it, reply, **parameters)
        assert (kind, data["code"]) == ("error", code)
        name, payload = it.emitted[-1]
        assert (name, payload["code"], payload["reason"]) == ("TransferFailed", code, data["error"])
        assert "secret" not in str(it.emitted)
        assert not any(upload.stored for upload in it.moonraker.uploads)


@pytest.mark.parametrize(
    ("name", "code"),
    [("../a.gcode", "forbidden_path"), (".a", "forbidden_path"), ("x/y.gcode", "forbidden_path")],
)
async def test_a_name_that_escapes(tmp_path: Path, name: str, code: str) -> None:
    """It is refused before anything is fetched."""
    async with bench(tmp_path) as it, FakeSource(Reply(200, CONTENT)) as source:
        _, data = await it.run("printer_control.download_gcode", {"url": source.url, "file_name": name})
        assert data["code"] == code
        assert source.seen == []
        assert it.emitted == []


async def test_the_file_that_prints_is_not_replaced(tmp_path: Path) -> None:
    """Nor while it is paused; another one may come meanwhile."""
    async with bench(tmp_path) as it:
        for state in ("printing", "paused"):
            await it.push(**printing(state))
            assert (await download(it, Reply(200, CONTENT), file_name="CUBE.gcode"))[1]["code"] == "busy"
            assert (await download(it, Reply(200, CONTENT)))[0] == "success"


@pytest.mark.parametrize(
    ("free", "size", "code"),
    [(500_000, 10, "no_space"), (501_000, 4000, "no_space"), (600_000, 4000, None)],
)
async def test_the_disk_keeps_5_percent(tmp_path: Path, free: int, size: int, code: str | None) -> None:
    """A disk of 10 MB with 0.5 MB free takes nothing; with a little more, only what fits."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["server.files.get_directory"] = directory(total=10**7, free=free)
        kind, data = await download(it, Reply(200, b";" * size))
        assert data.get("code") == code, data
        assert kind == ("error" if code else "success")


async def test_the_folder_keeps_the_newest(tmp_path: Path) -> None:
    """Two stay, and the one that prints, and the one just fetched; what is no G-code is not ours to delete."""
    async with bench(tmp_path) as it:
        await it.push(**printing(filename="Printago/old3.gcode"))
        it.moonraker.answers["server.files.get_directory"] = directory(
            "new.gcode", "notes.txt", "old1.gcode", "old2.gcode", "old3.gcode", "a.gcode"
        )
        it.moonraker.answers["server.files.delete_file"] = {}
        assert (await download(it, Reply(200, CONTENT)))[0] == "success"
        assert it.requests("server.files.delete_file") == [{"path": "gcodes/Printago/old2.gcode"}]


@pytest.mark.parametrize("method", ["server.files.delete_file", "server.files.metadata"])
async def test_what_fails_after_the_transfer_is_no_failure_of_it(tmp_path: Path, method: str) -> None:
    """The file is there: that an old one could not be deleted changes nothing."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["server.files.get_directory"] = directory("x.gcode", "y.gcode", "z.gcode")
        it.moonraker.answers["server.files.delete_file"] = {}
        it.moonraker.answers[method] = Refusal(403, "File currently in use")
        assert (await download(it, Reply(200, CONTENT)))[0] == "success"


async def test_a_file_that_cannot_be_deleted_keeps_no_other(tmp_path: Path) -> None:
    """The folder stays small, whatever one of its files is to Moonraker."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["server.files.get_directory"] = directory("1.gcode", "2.gcode", "3.gcode", "4.gcode")
        it.moonraker.answers["server.files.delete_file"] = Refusal(403, "File currently in use")
        assert (await download(it, Reply(200, CONTENT)))[0] == "success"
        assert [each["path"][-7:] for each in it.requests("server.files.delete_file")] == ["3.gcode", "4.gcode"]


async def test_a_plate_of_an_archive(tmp_path: Path) -> None:
    """What is uploaded is the G-code, under the name that the archive had."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("Metadata/plate_1.gcode", "M117 other\n")
        file.writestr("Metadata/plate_2.gcode", CONTENT)
    async with bench(tmp_path) as it:
        reply = Reply(200, buffer.getvalue())
        kind, data = await download(it, reply, file_name="cube.gcode.3mf", plate="2", size=len(reply.body))
        assert (kind, data["path"], data["sha256"]) == ("success", "Printago/cube_plate_2.gcode", SHA256)
        assert (await download(it, reply, plate=3))[1]["code"] == "file_not_found"


async def test_a_lost_moonraker_fails_the_transfer_as_offline(tmp_path: Path) -> None:
    """Event and answer agree."""
    async with bench(tmp_path, connected=False) as it:
        assert (await download(it, Reply(200, CONTENT)))[1]["code"] == "printer_offline"
        assert it.emitted[-1][1]["code"] == "printer_offline"


# --------------------------------------------------------------------------------------------------------------- starts


async def started(it: Bench, **parameters: Any) -> None:
    it.send("printer_control.start_print", {"file_name": "cube.gcode", **parameters})
    await it.called("printer.print.start")


async def test_a_start_is_a_success_once_it_is_seen(tmp_path: Path) -> None:
    """The "ok" only says that the file is open; while it is awaited, the printer is starting, and busy."""
    async with bench(tmp_path) as it:
        await started(it, job_id="job-7")
        await it.reply("printer.print.start")
        assert it.requests("printer.print.start") == [{"filename": PATH}]
        assert it.printer.phase == "STARTING"
        assert it.answers == []
        await it.push(**printing())
        assert (await it.answered())[0] == "success"
        assert [(each.job.job_id, each.job.source) for each in it.transitions] == [("job-7", "printago")]


async def test_a_job_shorter_than_a_tick_is_a_success(tmp_path: Path) -> None:
    """It is seen by its end only."""
    async with bench(tmp_path) as it:
        await it.push(**printing("complete", total_duration=9.0))
        await started(it, printago_job="job-7")
        await it.push(**printing("complete", total_duration=0.02))
        assert (await it.answered())[0] == "success"
        assert [each.change.value for each in it.transitions] == ["PrintStarted", "PrintDone"]
        assert it.transitions[0].job.job_id == "job-7"


async def test_a_late_start_is_still_printagos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A given-up start runs all the same when Klipper gets to it; a refused one does not."""
    monkeypatch.setattr("printago_moonraker.printer.printer.SETTLE", 0.02)
    async with bench(tmp_path) as it:
        await started(it, job_id="job-7")
        await it.reply("printer.print.start")
        assert (await it.answered())[1]["code"] == "timeout"
        assert it.printer.phase == "OPERATIONAL"
        await it.push(**printing())
        assert it.transitions[0].job.job_id == "job-7"


async def test_a_refused_start_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later start of that file by a person is local."""
    monkeypatch.setattr("printago_moonraker.printer.printer.TICK", 0.02)
    async with bench(tmp_path) as it:
        await started(it, job_id="job-7")
        await it.reply("printer.print.start", Refusal(400, "SD busy"))
        assert (await it.answered())[1]["code"] == "busy"
        await it.push(**printing())
        assert (it.transitions[0].job.job_id, it.transitions[0].job.source) == (None, "local")


async def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Klipper would reset the last job for it: it is not even asked. One without metadata is there all the same."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["server.files.metadata"] = Refusal(-32601, "Metadata not available for <x>")
        it.moonraker.answers["server.files.get_directory"] = directory("cube.gcode")
        assert await it.run("printer_control.start_print", {"file_name": "foo.gcode"}) == (
            "error",
            {"error": "File does not exist: Printago/foo.gcode", "code": "file_not_found"},
        )
        assert it.requests("printer.print.start") == []
        await started(it)
        await it.push(**printing())
        assert (await it.answered(2))[0] == "success"


async def test_somebody_else_was_faster(tmp_path: Path) -> None:
    """The printer is looked at again when the file has been found: a start while paused would throw that job away."""
    async with bench(tmp_path) as it:

        def found(_: Any) -> Any:
            it.printer.apply(printing("paused", "other.gcode"))
            return {}

        it.moonraker.answers["server.files.metadata"] = found
        assert (await it.run("printer_control.start_print", {"file_name": "cube.gcode"}))[1]["code"] == "busy"
        assert it.requests("printer.print.start") == []


async def test_download_and_start_in_one(tmp_path: Path) -> None:
    """`start_print_bbl`: both, with the members of both, and the name that the cloud gave the print."""
    async with bench(tmp_path) as it, FakeSource(Reply(200, CONTENT)) as source:
        it.moonraker.answers["server.files.get_directory"] = directory()
        it.send("printer_control.start_print_bbl", {"url": source.url, "file_name": "cube.gcode", "job_id": "job-9"})
        await it.called("printer.print.start")
        await it.push(**printing())
        kind, data = await it.answered()
        assert (kind, data["path"], data["sha256"]) == ("success", PATH, SHA256)
        assert it.transitions[0].job.job_id == "job-9"
