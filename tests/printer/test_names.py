"""File names are names: nothing leaves the agent's folder."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from printago_moonraker.errors import ForbiddenPath, ForbiddenUrl
from printago_moonraker.printer import names

PARTS = st.one_of(st.text(max_size=20), st.sampled_from(["..", ".", "/", "\\", "Printago/", "a.gcode", "%2e%2e", "\0"]))
TEXT = st.lists(PARTS, max_size=6).map("".join)


def assert_inside(path: str) -> None:
    folder, _, name = path.partition("/")
    assert folder == "Printago"
    assert posixpath.normpath(path) == path
    assert "/" not in name
    assert name.isprintable() or not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in name)
    assert 0 < len(name.encode()) <= names.MAX_BYTES


@given(TEXT)
@example("../../.moonraker.conf")
@example("Printago/../a.gcode")
@example("/etc/passwd")
@example("a\r\nM112")
def test_no_name_is_a_path(name: str) -> None:
    """Whatever a command calls a file, it is refused, or it lies directly in the folder."""
    try:
        path = names.in_folder(name, "Printago")
    except ForbiddenPath:
        return
    assert_inside(path)
    assert names.checked(path.partition("/")[2]) in name


@given(TEXT, st.one_of(st.none(), TEXT), st.integers(1, 40))
def test_no_download_leaves_the_folder(path: str, file_name: str | None, plate: int) -> None:
    """Neither the URL's path nor `file_name` can name anything but a printable file in the folder."""
    url = f"https://example.com/{path}".split("?")[0]
    try:
        name = names.download_name(url, file_name, "Printago", plate)
    except ForbiddenPath:
        return
    assert_inside(f"Printago/{name}")
    assert name.endswith(names.GCODE_ENDINGS)


def test_a_url_that_cannot_be_read() -> None:
    """It is refused, and its code says that it is the URL."""
    with pytest.raises(ForbiddenUrl):
        names.download_name("https://[a/a.gcode", None, "Printago")


@pytest.mark.parametrize(
    ("url", "file_name", "plate", "name"),
    [
        ("https://x/files/Squiggle%20P.gcode?st=1&dl=1", None, 1, "Squiggle P.gcode"),
        ("https://x/files/a1b2", None, 1, "a1b2.gcode"),
        ("https://x/files/a1b2", "Benchy.gcode", 1, "Benchy.gcode"),
        ("https://x/files/a1b2", "BENCHY.GCODE", 1, "BENCHY.GCODE.gcode"),
        ("https://x/files/a1b2", "Printago/Benchy.gcode", 1, "Benchy.gcode"),
        ("https://x/files/a1b2", "Benchy.gco", 1, "Benchy.gco"),
        ("https://x/files/a1b2", "notes.txt", 1, "notes.txt.gcode"),
        ("https://x/files/a.gcode.3mf", None, 1, "a.gcode"),
        ("https://x/files/a.3mf", None, 1, "a.gcode"),
        ("https://x/files/a.gcode.3mf", None, 2, "a_plate_2.gcode"),
        ("https://x/files/z", "ä ß.gcode", 1, "ä ß.gcode"),
    ],
)
def test_a_downloads_name(url: str, file_name: str | None, plate: int, name: str) -> None:
    """`file_name`, else the last part of the URL's path, decoded; with an ending that Klipper prints."""
    assert names.download_name(url, file_name, "Printago", plate) == name


@pytest.mark.parametrize("url", ["https://x/", "https://x", "https://x/%2e%2e", "https://x/..%2f..%2fmoonraker.conf"])
def test_a_url_without_a_name_is_refused(url: str) -> None:
    """Percent-encoding hides nothing."""
    with pytest.raises(ForbiddenPath):
        names.download_name(url, None, "Printago")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", ".hidden", " a", "a ", "a\n", "a\x7f", "\x85a", "\ud800", "ä" * 128]
)
def test_each_rule_refuses(name: str) -> None:
    """Empty, dots, folders, hidden, blank ends, control characters, half characters, too long."""
    with pytest.raises(ForbiddenPath):
        names.checked(name)


def test_the_limit_is_in_bytes() -> None:
    """255 bytes are taken, and the ending that is added must fit in as well."""
    assert names.checked("a" * 255)
    with pytest.raises(ForbiddenPath, match="too long"):
        names.download_name("https://x/y", "a" * 250, "Printago")
