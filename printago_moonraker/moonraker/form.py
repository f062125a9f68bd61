"""Moonraker's upload form and its answers, without input or output.

Source: RFC 7578; Moonraker's documentation, "File upload". What it answers to an upload that fails was measured: the
reason is in the last line of a Python traceback, which shows the server's paths and goes no further than here.
"""

from __future__ import annotations

import json
import re

from printago_moonraker.errors import Busy, ChecksumMismatch, CommandError, ForbiddenPath, NoSpace, UploadFailed
from printago_moonraker.log import printable


def opening(boundary: str, folder: str, name: str) -> bytes:
    """Everything before the file's bytes. Raises ForbiddenPath for a name that a header cannot hold.

    Moonraker's parser decodes `=?utf-8?q?...?=` inside a file name (RFC 2047): a slash could come out of that.
    """
    if any(ord(character) < 32 or ord(character) == 127 for character in folder + name):
        raise ForbiddenPath("A file name must not hold control characters.")
    if "=?" in name:
        raise ForbiddenPath("A file name must not hold the characters =? in a row.")
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return (
        _field(boundary, "root", "gcodes")
        + _field(boundary, "path", folder)
        + f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


def closing(boundary: str, sha256: str) -> bytes:
    """Everything after the file's bytes: their sum comes last, because it is known last."""
    return ("\r\n" + _field(boundary, "checksum", sha256) + f"--{boundary}--\r\n").encode()


def _field(boundary: str, name: str, value: str) -> str:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'


def stored_path(answer: bytes, size: int) -> str:
    """Where Moonraker put the file of `size` bytes, relative to gcodes, by its answer to an upload.

    Raises UploadFailed, ChecksumMismatch.
    """
    try:
        item = json.loads(answer)["item"]
        path, stored = item["path"], item["size"]
    except (ValueError, LookupError, TypeError):
        path = stored = None
    if not isinstance(path, str):
        raise UploadFailed("What answered the upload was not Moonraker: check moonraker_url.")
    if stored != size:  # its checksum is of what it received, not of what it wrote
        raise ChecksumMismatch(f"The file on the printer has {stored} bytes, but {size} were sent.")
    return path


def failure(status: int, answer: bytes) -> CommandError:
    """The error for an answer other than 201, in a sentence without the server's paths."""
    reason = _reason(answer)
    if status == 413 or (status == 400 and not answer):  # Tornado, without a word, when a streamed body grows too long
        return UploadFailed("The file is larger than the max_upload_size of Moonraker, or of the web server before it.")
    if status == 401:
        return UploadFailed("Moonraker refused the upload: check moonraker_api_key_file, or its trusted_clients.")
    if status == 422:
        return ChecksumMismatch("Moonraker received other bytes than were sent: the SHA-256 differs.")
    if status == 403 and re.search(r"\b(loaded|in use)\b", reason):
        return Busy("The file is printing and cannot be replaced.")
    # "Unable to save file" is all that Moonraker says itself; the cause is in the traceback that leads there.
    full = re.search(r"no space left|disk full|disk quota", reason, re.IGNORECASE)
    if full or status == 507 or re.search(rb"OSError: \[Errno (28|122)\]", answer):
        return NoSpace("There is no space left on the printer's disk.")
    return UploadFailed(f"Moonraker refused the upload ({status}{': ' + reason if reason else ''}).")


def _reason(answer: bytes) -> str:
    try:
        error = json.loads(answer)["error"]
        last = str(error.get("traceback", "")).strip().rpartition("\n")[2]
        message = str(error.get("message", ""))
    except (ValueError, LookupError, TypeError, AttributeError):  # not Moonraker's JSON
        return ""
    said = re.fullmatch(r".*HTTP \d+: [^(]*\((.*)\)", last) or re.fullmatch(r"OSError: (.*?)(?:: '.*)?", last)
    return printable(re.sub(r"(?<!\S)/\S+", "…", said[1] if said else message))
