"""What the fuzzer sends: commands that almost fit their schemas, and bytes that fit nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas" / "commands"
PUBLIC = "files.example.com"  # resolves to a public address
PRIVATE = "printer.example.com"  # resolves to a private one
REBINDING = "rebinding.example.com"  # resolves to a public address first, and to a private one then
MIXED = "mixed.example.com"  # resolves to both
HOSTS = (
    *[PUBLIC] * 20, PRIVATE, REBINDING, MIXED, "nowhere.example.com", "localhost", "127.0.0.1", "127.1", "2130706433",
    "0x7f000001", "0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "[fe80::1]", "[fe80::1%25eth0]",
    "[fc00::1]", "224.0.0.1", "255.255.255.255", "example.com.", "127.0.0.1.", "①②⑦.0.0.1", "LOCALHOST", "127。0。0。1",
)  # fmt: skip
NASTY = (
    "", ".", "..", "../x.gcode", "/etc/passwd", "a/../../b.gcode", "Printago/../x.gcode", "Printago//x", "..\\x.gcode",
    "%2e%2e%2fx.gcode", "a\n M112", "a\r\nX-Api-Key: 1", 'a" M112 "', "a\x00.gcode", "a\u2028.gcode", "\ud800.gcode",
    "x" * 300, ".hidden.gcode", " a.gcode", "a.gcode ", "a.gcode.3mf", "a.3mf", "CON",
    "a;M112.gcode", "${HOME}", "{M112}", "Printago/a.gcode", "cube.gcode", "extruder\nM112", "heater_bed TARGET=300",
)  # fmt: skip


def _examples() -> dict[str, list[dict[str, Any]]]:
    return {path.stem: json.loads(path.read_text())["examples"] for path in sorted(SCHEMAS.glob("*.json"))}


def _properties() -> dict[str, list[str]]:
    return {
        path.stem: list(json.loads(path.read_text()).get("properties", {})) for path in sorted(SCHEMAS.glob("*.json"))
    }


EXAMPLES, PROPERTIES = _examples(), _properties()

texts = st.sampled_from(NASTY) | st.text(max_size=40)
NUMBERS = (
    0, 1, -1, 0.5, 200, 1e9, -1e9, 1e308, 2**53, 2**70, 1e-9, "200", "0.5", "-3", "1e5", " 1", "NaN", "1_0", "٣",
)  # fmt: skip
PATHS = (
    "/a.gcode", "/", "", "/a%2fb.gcode", "/..%2f..%2fx.gcode", "/a.gcode.3mf", "/b.gcode?x=1#f", "/redirect/private",
    "/redirect/name", "/redirect/loop", "/redirect/file", "/big", "/none",
)  # fmt: skip
numbers: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(NUMBERS),
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(),
    st.floats(-300, 300),
    st.integers(0, 300).map(str),
)
paths = st.sampled_from(PATHS)
urls = st.builds(
    lambda scheme, user, host, port, path: f"{scheme}{user}{host}{port}{path}",
    st.sampled_from([*["http://"] * 10, "https://", "HTTP://", "ftp://", "file://", "//", "http:/", "gopher://", ""]),
    st.sampled_from([*[""] * 12, "user@", "user:secret@", f"{PUBLIC}@", "\\@"]),
    st.sampled_from(HOSTS),
    st.sampled_from([*[""] * 10, ":80", ":7125", ":0", ":99999", ":x"]),
    paths,
) | texts  # fmt: skip
scalars = st.none() | st.booleans() | numbers | texts | urls
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8
)
axes: st.SearchStrategy[Any] = st.one_of(
    st.dictionaries(st.sampled_from("xyzXe"), numbers, max_size=4),
    st.text("xyzXYZ, \nM", max_size=6),
    st.lists(st.sampled_from("xyzq"), max_size=4),
)
MEANT: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("url", "destination_url"), urls),
    **dict.fromkeys(("file_name", "job_id"), texts),
    **dict.fromkeys(("temperature", "speed", "amount", "tool", "brightness", "size"), numbers),
    "axes": axes,
    "camera_name": st.sampled_from(["front", "front\n", "FRONT"]) | texts,
    "fan": st.sampled_from(["fan", "host", "fan M112"]) | texts,
    "light": st.sampled_from(["strip", "caselight", "strip RED=1"]) | texts,
    "interval": st.sampled_from([300, "300", -1, 1e9]),
    "max_duration": st.sampled_from([0.1, "0.2", -1]),
}


def _weighted(**weights: int) -> st.SearchStrategy[str]:
    """One of the names, each as often as its weight says."""
    return st.sampled_from([name for name, weight in weights.items() for _ in range(weight)])


@st.composite
def parameters(draw: st.DrawFn, name: str) -> Any:
    """An example of the schema with some members changed, dropped or added; now and then anything."""
    if draw(_weighted(anything=1, example=19)) == "anything":
        return draw(junk)
    found = dict(draw(st.sampled_from(EXAMPLES[name])))
    # The examples' URLs are https, which the test's server does not speak.
    changed = {member for member in found if "url" in member}
    if PROPERTIES[name]:
        changed |= draw(st.sets(st.sampled_from(PROPERTIES[name]), max_size=2))
    for member in sorted(changed):
        what = draw(_weighted(meant=12, junk=2, drop=1))
        if what == "meant":
            found[member] = draw(MEANT.get(member, scalars))
        elif what == "junk":
            found[member] = draw(junk)
        elif what == "drop":
            found.pop(member, None)
    return found


times = st.sampled_from(
    [
        "2020-01-01T00:00:00Z",
        "2099-01-01T00:00:00Z",
        "2099-01-01T00:00:00+25:00",
        "9999-12-31T23:59:59-23:59",
        "now",
        "",
        0,
    ]
)


@st.composite
def commands(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from(list(EXAMPLES)))
    kind, _, action = name.partition(".")
    command: dict[str, Any] = {"type": kind, "action": action, "parameters": draw(parameters(name))}
    what = draw(_weighted(nothing=30, change=2, drop=1, time=2, printer=1, id=2))
    if what == "change":
        command[draw(st.sampled_from(list(command)))] = draw(junk)
    elif what == "drop":
        command.pop(draw(st.sampled_from(list(command))))
    elif what == "time":
        command[draw(st.sampled_from(["timestamp", "expires_at"]))] = draw(times)
    elif what == "printer":
        command["printer_id"] = draw(st.sampled_from(["v1", "other", "", None]) | scalars)
    elif what == "id":
        command["id"] = draw(scalars)
    return json.dumps(command).encode()


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A command with some of its bytes changed."""
    whole = bytearray(draw(commands()))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(whole) - 1))
        whole[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(whole)


HOPELESS = (
    b"", b"{", b"null", b"[" * 5000, b'{"a":' * 2000, b"\xff\xfe", b"x" * 300_000, b'{"type":1e999}', b"1" * 5000,
)  # fmt: skip
KINDS = {
    "command": commands(), "broken": broken(), "bytes": st.binary(max_size=200),
    "json": junk.map(lambda value: json.dumps(value).encode()), "hopeless": st.sampled_from(HOPELESS),
}  # fmt: skip
inputs = _weighted(command=15, broken=2, bytes=1, json=1, hopeless=1).flatmap(KINDS.__getitem__)
