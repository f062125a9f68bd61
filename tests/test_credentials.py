"""The file of the pairing."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import pytest

from printago_moonraker import credentials
from printago_moonraker.credentials import NAME, Credentials
from printago_moonraker.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

FOUND = Credentials("store-1", "key-1234567890")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Store ID and API key come back as they were."""
    file = credentials.write(tmp_path / "new" / "data", FOUND)
    assert file == tmp_path / "new" / "data" / NAME
    assert credentials.read(tmp_path / "new" / "data") == FOUND


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    """The file is 0600, its folder 0700, whatever the umask."""
    before = os.umask(0)
    try:
        file = credentials.write(tmp_path / "data", FOUND)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_it_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while the new file is written leaves the old one, and nothing beside it."""
    credentials.write(tmp_path, FOUND)

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"cannot be written .No space left on device.; .*make room"):
        credentials.write(tmp_path, Credentials("store-2", "key-2"))
    assert credentials.read(tmp_path) == FOUND
    assert [each.name for each in tmp_path.iterdir()] == [NAME]


def test_nothing_is_put_before_it_is_wanted(tmp_path: Path) -> None:
    """Staged credentials replace nothing until they are put, and leave nothing when they are not."""
    credentials.write(tmp_path, FOUND)
    with credentials.staged(tmp_path, Credentials("store-2", "key-2")):
        assert credentials.read(tmp_path) == FOUND
    assert credentials.read(tmp_path) == FOUND
    assert [each.name for each in tmp_path.iterdir()] == [NAME]


def test_whose_folder_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is told whose agent could not read what he would write; anybody else writes as himself."""
    if os.geteuid() == 0:
        os.chown(tmp_path, 1, 1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    owner = pwd.getpwuid(tmp_path.stat().st_uid).pw_name
    assert credentials.other_owner(tmp_path / "not" / "there yet") == owner
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert credentials.other_owner(tmp_path) is None


def test_it_is_forgotten(tmp_path: Path) -> None:
    """Forgetting says whether there was anything."""
    credentials.write(tmp_path, FOUND)
    assert credentials.forget(tmp_path)
    assert credentials.read(tmp_path) is None
    assert not credentials.forget(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"store_id": "a"}', b'{"store_id": "a", "api_key": ""}']
)
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    """What is not what the pairing writes is an error that names the file and the remedy, and quotes nothing of it."""
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(ConfigError, match="printago-moonraker pair"):
        credentials.read(tmp_path)


def test_an_unreadable_place_is_one_line(tmp_path: Path) -> None:
    """A data_path that is no folder is an error for reading, writing and forgetting."""
    place = tmp_path / "file"
    place.touch()
    for attempt in (credentials.read, credentials.forget, lambda folder: credentials.write(folder, FOUND)):
        with pytest.raises(ConfigError, match=str(place)):
            attempt(place)


@pytest.mark.parametrize(
    ("store_id", "api_key"), [("", "k"), ("s", ""), ("s s", "k"), ("s", "k\nk"), ("s", "k" * 5000)]
)
def test_credentials_are_words(store_id: str, api_key: str) -> None:
    """What cannot be a store ID or a key is refused, before a broker is asked; the text is not repeated."""
    with pytest.raises(ValueError, match="must be one word"):
        Credentials(store_id, api_key)


def test_the_key_is_not_shown() -> None:
    """A key has no place in a traceback."""
    assert "key-1234567890" not in repr(FOUND)
