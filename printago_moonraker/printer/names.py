"""Names of files that come from a command: names, never paths. They stay in the agent's own folder."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from printago_moonraker.errors import ForbiddenPath, ForbiddenUrl
from printago_moonraker.log import printable

GCODE_ENDINGS = (".gcode", ".gco", ".g")  # what Klipper's virtual_sdcard prints
MAX_BYTES = 255


def same_file(one: str, other: str) -> bool:
    """Klipper matches names regardless of case, and reports the caller's spelling."""
    return one.lower() == other.lower()


def checked(name: str) -> str:
    """`name` itself when it is fit to be a file's name. Raises ForbiddenPath."""
    shown = printable(name, 60)
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        raise ForbiddenPath(f"{shown!r} is not a file name: a name without folders is needed.")
    if name.startswith(".") or name != name.strip():
        raise ForbiddenPath(
            f"{shown!r} is not a usable file name: it begins with a dot, or begins or ends with a space."
        )
    if any(ord(char) < 32 or 127 <= ord(char) < 160 or 0xD800 <= ord(char) < 0xE000 for char in name):
        raise ForbiddenPath(f"{shown!r} is not a usable file name: it contains control characters.")
    if len(name.encode()) > MAX_BYTES:
        raise ForbiddenPath(f"{shown!r} is too long: a file name has at most {MAX_BYTES} bytes.")
    return name


def in_folder(file_name: str, folder: str) -> str:
    """The path below gcodes of a file that a command names with or without the folder. Raises ForbiddenPath."""
    return f"{folder}/{checked(file_name.removeprefix(folder + '/'))}"


def download_name(url: str, file_name: str | None, folder: str, plate: int = 1) -> str:
    """What a download is called: `file_name`, else the last part of the URL's path; a 3MF's plate becomes a G-code
    file. Raises ForbiddenPath, ForbiddenUrl.
    """
    name = file_name.removeprefix(folder + "/") if file_name else _last_part(url)
    if not name:
        raise ForbiddenPath("The URL ends without a file name; give file_name.")
    checked(name)
    if is_archive(name):
        name = name[: -len(".3mf")]
        if plate != 1:
            stem = name.removesuffix(".gcode")
            name = f"{stem}_plate_{plate}.gcode"
    if not name.endswith(GCODE_ENDINGS):  # Klipper does not print a .GCODE
        name += ".gcode"
    return checked(name)


def _last_part(url: str) -> str:
    try:
        return unquote(urlsplit(url).path.rpartition("/")[2], errors="replace")
    except ValueError:
        raise ForbiddenUrl("The URL cannot be read.") from None


def is_archive(name: str) -> bool:
    """Whether the name is that of a 3MF archive."""
    return name.lower().endswith(".3mf")
