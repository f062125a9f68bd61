"""One archive for a bug report, with no secret in it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import io
import json
import os
import platform
import sqlite3
import subprocess
import tarfile
import traceback
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from printago_moonraker import __version__, config, config_file, doctor, log
from printago_moonraker.errors import AgentError
from printago_moonraker.findings import as_json
from printago_moonraker.redaction import redacted, shareable

if TYPE_CHECKING:
    from collections.abc import Callable

    from printago_moonraker.config import Config

MAX_LOG_BYTES: Final = 2_000_000  # of the end of each file
_JOURNAL: Final = ["journalctl", "--unit=printago-moonraker*", "--lines=5000", "--no-pager", "--output=short-iso"]
_JOURNAL_TIMEOUT: Final = 15.0  # s
_PACKAGES: Final = ("aiohttp", "jsonschema", "paho-mqtt", "pillow", "websockets")


def run(given: Path | None, output: Path | None, write: Callable[[str], object] = print) -> int:
    """Write the archive into the current folder, or to `output` (a folder or a name); returns the exit code.

    Works whatever is broken, the configuration too. Raises AgentError when it cannot be written.
    """
    name = f"printago-support-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar.gz"
    target = Path(name) if output is None else output / name if output.is_dir() else output
    parts = collect(given)
    try:
        with (
            os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
            tarfile.open(fileobj=file, mode="w:gz") as archive,
        ):
            for part, text in parts.items():
                _add(archive, f"{name.removesuffix('.tar.gz')}/{part}", redacted(text))
    except OSError as error:
        raise AgentError(f"{target} cannot be written ({error.strerror}); name another place with --output.") from error
    write(f"{target}: {', '.join(parts)}. Keys and passwords are taken out; look into it before you pass it on.")
    return 0


def collect(given: Path | None) -> dict[str, str]:
    """What goes into the archive, by its name there; not yet redacted, but for the configuration."""
    parts = {"versions.json": _json(_versions())}
    parts["printago.cfg"] = _config_text(given)
    parts["doctor.json"] = _findings(given)
    settings = None
    try:
        settings = config.load(given)
        settings.login()  # names the secrets of the pairing to the log
    except AgentError as error:
        parts["state.txt"] = f"{error}\n"
    if settings is not None:
        parts["state.json"] = _json(_state(settings))
        parts |= _logs(settings.printago.log_path)
    parts["journal.txt"] = _journal()
    return parts


def _config_text(given: Path | None) -> str:
    try:
        path = given.expanduser() if given else config_file.default_path()
        return shareable(path.read_text("utf-8-sig", "replace"))
    except OSError as error:
        return f"{path}: {error.strerror}\n"
    except (ValueError, RuntimeError) as error:  # no home folder
        return f"{error}\n"


def _findings(given: Path | None) -> str:
    try:
        return as_json(asyncio.run(doctor.examine(given)))
    except Exception as error:
        # A defect of the doctor's is what the archive may be wanted for: it must not cost the rest of it.
        return _json({"ok": False, "error": "".join(traceback.format_exception(error))})


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode("utf-8", "replace")
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o600, int(datetime.now(UTC).timestamp())
    archive.addfile(member, io.BytesIO(data))


def _versions() -> dict[str, Any]:
    packages = {}
    for package in _PACKAGES:
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            packages[package] = "not installed"
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = ""
    return {
        "printago-moonraker": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "system": system,
        "packages": packages,
    }


def _state(settings: Config) -> dict[str, Any]:
    """What the data folder holds: names, sizes, times, modes. Never contents."""
    folder = settings.printago.data_path
    try:
        files = {each.name: _described(each) for each in sorted(folder.iterdir())}
        files["."] = _described(folder)
    except OSError as error:
        return {"data_path": str(folder), "error": error.strerror}
    return {"data_path": str(folder), "files": files, "rows": _rows(folder)}


def _rows(folder: Path) -> dict[str, Any]:
    """How much each table of the databases holds."""
    rows: dict[str, Any] = {}
    for file in sorted(folder.glob("*.db")) + sorted(folder.glob("*.sqlite*")):
        try:
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=2)) as database:
                names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
                counts = {
                    name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608 - its own name
                    for name in names
                }
        except sqlite3.Error as error:
            rows[file.name] = str(error)
        else:
            rows[file.name] = counts
    return rows


def _described(path: Path) -> dict[str, Any]:
    status = path.stat()
    changed = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
    return {"bytes": status.st_size, "changed": changed, "mode": f"{status.st_mode & 0o777:04o}"}


def _logs(path: Path | None) -> dict[str, str]:
    """The log file and those that it was rotated into."""
    if path is None:
        return {}
    names = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, log.FILES))]
    return {f"logs/{each.name}": _read(each) for each in names if each == path or os.access(each, os.F_OK)}


def _journal() -> str:
    try:
        done = subprocess.run(_JOURNAL, capture_output=True, timeout=_JOURNAL_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no journal: {error}\n"
    return (done.stdout or done.stderr)[-MAX_LOG_BYTES:].decode("utf-8", "replace")


def _read(path: Path) -> str:
    """The end of a file; what is wrong with it when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_LOG_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError as error:
        return f"{path}: {error.strerror}\n"


def _json(members: dict[str, Any]) -> str:
    return json.dumps(members, indent=2, ensure_ascii=False) + "\n"
