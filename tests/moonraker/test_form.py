"""The upload form, and what Moonraker's answers to it mean."""

from __future__ import annotations

import json
import re

import pytest

from printago_moonraker import errors
from printago_moonraker.moonraker import form

TRACEBACK = """Traceback (most recent call last):
  File "/home/pi/moonraker/moonraker/components/application.py", line 1040, in post
tornado.web.HTTPError: HTTP {status}: {reason} ({text})
"""


def refusal(status: int, reason: str, text: str) -> bytes:
    """An error as Moonraker sends it for an upload."""
    traceback = TRACEBACK.format(status=status, reason=reason, text=text)
    return json.dumps({"error": {"code": status, "message": reason, "traceback": traceback}}).encode()


def test_form() -> None:
    """The form has the root, the folder and the file, and the checksum after the file."""
    text = (form.opening("B", "Printago", 'ü "q" \\.gcode') + b"G28\n" + form.closing("B", "00ff")).decode()
    assert text == (
        '--B\r\nContent-Disposition: form-data; name="root"\r\n\r\ngcodes\r\n'
        '--B\r\nContent-Disposition: form-data; name="path"\r\n\r\nPrintago\r\n'
        '--B\r\nContent-Disposition: form-data; name="file"; filename="ü \\"q\\" \\\\.gcode"\r\n'
        "Content-Type: application/octet-stream\r\n\r\nG28\n\r\n"
        '--B\r\nContent-Disposition: form-data; name="checksum"\r\n\r\n00ff\r\n--B--\r\n'
    )


@pytest.mark.parametrize("name", ["a\r\nX: y.gcode", "a\0.gcode", "a\x7f.gcode", "=?utf-8?q?=2E=2E=2Fa?=.gcode"])
def test_names_that_a_header_cannot_hold(name: str) -> None:
    """A name that would end the header, or that Moonraker would decode into another one, is refused."""
    with pytest.raises(errors.ForbiddenPath):
        form.opening("B", "Printago", name)


@pytest.mark.parametrize(
    ("status", "answer", "kind", "sentence"),
    [
        (403, refusal(403, "Forbidden", "File is loaded, upload not permitted"), errors.Busy, "is printing"),
        (403, refusal(403, "Forbidden", "File currently in use"), errors.Busy, "is printing"),
        (403, refusal(403, "Forbidden", "Write access is disabled"), errors.UploadFailed, "Write access is disabled"),
        (400, refusal(400, "Bad Request", "Root nope not available"), errors.UploadFailed, "Root nope not available"),
        (413, b"<html>413 Request Entity Too Large</html>", errors.UploadFailed, "max_upload_size"),
        (400, b"", errors.UploadFailed, "max_upload_size"),
        (401, refusal(401, "Unauthorized", "Unauthorized"), errors.UploadFailed, "moonraker_api_key_file"),
        (422, refusal(422, "Unprocessable Entity", "File checksum mismatch: ..."), errors.ChecksumMismatch, "SHA-256"),
        (500, b'{"error":{"message":"x","traceback":"OSError: [Errno 28] No space left on device: \'/home/pi/x\'"}}',
         errors.NoSpace, "no space left"),
        (500, b'{"error":{"message":"x","traceback":"OSError: [Errno 28] No space left on device\\n\\nDuring ...'
         b'\\ntornado.web.HTTPError: HTTP 500: Internal Server Error (Unable to save file)\\n"}}',
         errors.NoSpace, "no space left"),
        (400, refusal(400, "Bad Request", "Cannot write to path: /gcodes/Errno 28.gcode"), errors.UploadFailed, "400"),
        (507, b"", errors.NoSpace, "no space left"),
        (502, b"<html>Bad Gateway</html>", errors.UploadFailed, r"\(502\)"),
        (500, b"[1]", errors.UploadFailed, r"\(500\)"),
        (500, b'{"error":{"message":"Internal Server Error"}}', errors.UploadFailed, "Internal Server Error"),
    ],
)  # fmt: skip
def test_failures(status: int, answer: bytes, kind: type[errors.CommandError], sentence: str) -> None:
    """Each refusal becomes the error of its meaning, with one sentence."""
    error = form.failure(status, answer)
    assert type(error) is kind
    assert re.search(sentence, str(error))


def test_no_path_of_the_server_leaks() -> None:
    """Neither the traceback nor an absolute path in its last line is passed on."""
    answer = refusal(400, "Bad Request", "Cannot write to path: /home/pi/printer_data/gcodes/x.gcode")
    assert str(form.failure(400, answer)) == "Moonraker refused the upload (400: Cannot write to path: …)."


def test_stored_path() -> None:
    """Where the file lies now is what the answer says."""
    assert form.stored_path(b'{"item":{"path":"Printago/a.gcode","size":5}}', 5) == "Printago/a.gcode"


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b"5", b"{}", b'{"item":5}', b'{"item":{}}'])
def test_success_of_somebody_else(answer: bytes) -> None:
    """A success that is none of Moonraker's is an error."""
    with pytest.raises(errors.UploadFailed):
        form.stored_path(answer, 5)


def test_stored_size() -> None:
    """A file of another size than was sent is no success."""
    with pytest.raises(errors.ChecksumMismatch, match="has 4 bytes, but 5 were sent"):
        form.stored_path(b'{"item":{"path":"Printago/a.gcode","size":4}}', 5)
