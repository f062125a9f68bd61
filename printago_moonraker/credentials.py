"""What the pairing leaves behind: store ID and API key, in a file that only this user can read."""

from __future__ import annotations

import json
import os
import pwd
import secrets
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from printago_moonraker import program
from printago_moonraker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME: Final = "credentials.json"


@dataclass(frozen=True)
class Credentials:
    """Username and password at Printago's broker."""

    store_id: str
    api_key: str = field(repr=False)

    def __post_init__(self) -> None:
        for name, value in (("store ID", self.store_id), ("API key", self.api_key)):
            if not value or not value.isprintable() or " " in value or len(value) > 4096:
                raise ValueError(f"the {name} must be one word of printable characters")


def read(folder: Path) -> Credentials | None:
    """The credentials in `folder`, the configuration's data_path; None when there are none.

    Raises ConfigError when they are there, and cannot be used.
    """
    file = folder / NAME
    try:
        members = json.loads(file.read_bytes())
        return Credentials(str(members["store_id"]), str(members["api_key"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); run this as the user who paired.") from error
    except (ValueError, LookupError, TypeError) as error:
        # The error's own text may quote the file.
        remedy = program.command("pair")
        raise ConfigError(f"{file} does not hold what the pairing has written; run {remedy}.") from error


def write(folder: Path, credentials: Credentials) -> Path:
    """Put them in the place of what was there: whole or not at all, also in a power cut. Returns the file.

    Raises ConfigError when the folder cannot be written to.
    """
    with staged(folder, credentials) as put:
        return put()


@contextmanager
def staged(folder: Path, credentials: Credentials) -> Iterator[Callable[[], Path]]:
    """Write them beside what is there, so that a full disk or a folder of somebody else is known at once; what the
    block gets puts them in its place, and returns the file. Both raise ConfigError.
    """
    file = folder / NAME
    new = folder / f".{NAME}.{secrets.token_hex(4)}"
    text = json.dumps({"store_id": credentials.store_id, "api_key": credentials.api_key}, indent=2) + "\n"
    with _writing(file):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with (
            _writing(file),
            os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out,
        ):
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        yield partial(_put, new, file)
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


def _put(new: Path, file: Path) -> Path:
    with _writing(file):
        new.replace(file)
        _sync(file.parent)
    return file


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "give the folder to this user, make room, or choose another data_path"
        raise ConfigError(f"[printago] data_path: {file} cannot be written ({error.strerror}); {remedy}.") from error


def other_owner(folder: Path) -> str | None:
    """To whom `folder` belongs, or what there is of its path, when root would write into another user's: that user's
    agent could not read the file. None when that is not so.
    """
    if os.geteuid() != 0:
        return None
    there = next(each for each in (folder, *folder.parents) if os.access(each, os.F_OK))
    owner = there.stat().st_uid
    if owner == 0:
        return None
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"the user with the ID {owner}"


def forget(folder: Path) -> bool:
    """Remove them; whether there were any. Raises ConfigError."""
    try:
        (folder / NAME).unlink()
        _sync(folder)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"{folder / NAME} cannot be removed ({error.strerror}); delete it by hand.") from error
    return True


def _sync(folder: Path) -> None:
    """A file's name is on the disk when its folder is."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
