"""A Moonraker whose Klipper does everything at once, and a list of the G-code that an agent may write to it."""

from __future__ import annotations

import asyncio
import copy
import re
from typing import TYPE_CHECKING, Any

from tests.fakes.klipper import METADATA, OBJECTS, SETTINGS, STATUS

if TYPE_CHECKING:
    from tests.fakes.moonraker import FakeMoonraker

NUMBER = r"-?\d+(\.\d{1,4})?"
NAME = r'([\w.-]+|"[^"\\\n]+")'
FORMS = tuple(
    re.compile(form)
    for form in (
        rf"SET_HEATER_TEMPERATURE HEATER={NAME} TARGET={NUMBER}",
        r"G28( [XYZ]){0,3}",
        r"(SAVE|RESTORE)_GCODE_STATE NAME=printago",
        r"G90|G91|M83|M400|CLEAR_PAUSE",
        rf"G1( [XYZ]{NUMBER}){{1,3}} F{NUMBER}",
        rf"G1 E{NUMBER} F{NUMBER}",
        r"ACTIVATE_EXTRUDER EXTRUDER=extruder\d*",
        rf"M106 S{NUMBER}",
        rf"SET_FAN_SPEED FAN={NAME} SPEED={NUMBER}",
        rf"SET_PIN PIN={NAME} VALUE={NUMBER}",
        rf"SET_LED LED={NAME} RED={NUMBER} GREEN={NUMBER} BLUE={NUMBER} WHITE={NUMBER} SYNC=0 TRANSMIT=1",
    )
)
NAMED = re.compile(r'(?:HEATER|FAN|PIN|LED)=(?:"([^"]+)"|(\S+))')
SHORT_NAMES = {name.partition(" ")[2] or name for name in STATUS}
FILE = re.compile(r"Printago/[^/\x00-\x1f]+")


class Klippy:
    """Plugs itself into a FakeMoonraker. `violations` are the sentences of what no agent may send."""

    def __init__(self, moonraker: FakeMoonraker, webcam_url: str) -> None:
        self.moonraker = moonraker
        self.violations: list[str] = []
        self.written = 0
        self.status: dict[str, dict[str, Any]] = copy.deepcopy(STATUS)
        self._klippy = "ready"
        self._pushes: set[asyncio.Task[None]] = set()
        moonraker.answers |= {
            "server.connection.identify": {"connection_id": 1},
            "server.info": lambda _: {
                "klippy_connected": True,
                "klippy_state": self._klippy,
                "moonraker_version": "v0",
            },
            "printer.info": lambda _: {"state": self._klippy, "state_message": "", "software_version": "v0.13.0"},
            "printer.objects.list": {"objects": OBJECTS},
            "printer.objects.subscribe": self._subscribe,
            "printer.objects.query": self._subscribe,
            "server.files.metadata": self._file("filename", METADATA),
            "server.files.get_directory": {
                "disk_usage": {"total": 2**40, "used": 0, "free": 2**40},
                "files": [],
                "dirs": [],
            },
            "server.files.delete_file": self._file("path", {}),
            "server.history.list": {"jobs": []},
            "server.webcams.list": {"webcams": [_webcam(webcam_url)]},
            "machine.proc_stats": {},
            "connection.register_remote_method": "ok",
            "printer.gcode.script": self._script,
            "printer.print.start": self._start,
            "printer.print.pause": lambda _: self._job("paused"),
            "printer.print.resume": lambda _: self._job("printing"),
            "printer.print.cancel": lambda _: self._job("cancelled"),
            "printer.emergency_stop": lambda _: self._push(webhooks={"state": "shutdown", "state_message": "stopped"}),
            "printer.restart": lambda _: self._restart(),
            "printer.firmware_restart": lambda _: self._restart(),
        }

    async def rest(self) -> None:
        """Ready and without a print, as before the next input."""
        if self.status["webhooks"]["state"] != "ready":
            self._push(webhooks={"state": "ready", "state_message": ""})
        if self.status["print_stats"]["state"] in ("printing", "paused"):
            self._push(print_stats={"state": "complete"})
        while self._pushes:
            await asyncio.wait(self._pushes)

    def _push(self, **delta: dict[str, Any]) -> str:
        for name, fields in delta.items():
            self.status[name].update(fields)
        self._send("notify_status_update", delta, 1.0)
        return "ok"

    def _send(self, method: str, *params: Any) -> None:
        task = asyncio.get_running_loop().create_task(self.moonraker.notify(method, *params))
        self._pushes.add(task)
        task.add_done_callback(self._pushes.discard)

    def _subscribe(self, params: dict[str, Any]) -> dict[str, Any]:
        status = {name: self.status.get(name, {}) for name in params["objects"]}
        if "configfile" in status:
            status["configfile"] = {"settings": SETTINGS}
        return {"status": status}

    def _file(self, member: str, answer: Any) -> Any:
        def check(params: dict[str, Any]) -> Any:
            path = str(params[member]).removeprefix("gcodes/")
            if not FILE.fullmatch(path) or path.endswith(("/..", "/.")):
                self.violations.append(f"{member} {path!r} is outside of the folder")
            return answer

        return check

    def _script(self, params: dict[str, Any]) -> str:
        for line in params["script"].split("\n"):
            self.written += 1
            named = NAMED.search(line)
            if not any(form.fullmatch(line) for form in FORMS):
                self.violations.append(f"G-code of no known form: {line!r}")
            elif named and (named[1] or named[2]) not in {name.lower() for name in SHORT_NAMES} | SHORT_NAMES:
                self.violations.append(f"G-code with a name that the printer does not have: {line!r}")
            else:
                self._obey(line)
        return "ok"

    def _obey(self, line: str) -> None:
        values = {
            key: value for key, _, value in (word.partition("=") for word in re.sub(r'"[^"]*"', "", line).split())
        }
        found = NAMED.search(line)
        name = next(
            (
                each
                for each in self.status
                if found and (each.partition(" ")[2] or each).lower() == (found[1] or found[2]).lower()
            ),
            "",
        )
        if line.startswith("SET_HEATER"):
            self._push(**{name: {"target": float(values["TARGET"])}})
        elif line.startswith("M106"):
            self._push(fan={"speed": float(line.removeprefix("M106 S")) / 255})
        elif line.startswith("SET_FAN"):
            self._push(**{name: {"speed": float(values["SPEED"])}})
        elif line.startswith("SET_PIN"):
            self._push(**{name: {"value": float(values["VALUE"])}})
        elif line.startswith("SET_LED"):
            self._push(**{name: {"color_data": [[float(values[part]) for part in ("RED", "GREEN", "BLUE", "WHITE")]]}})

    def _start(self, params: dict[str, Any]) -> str:
        self._file("filename", None)(params)
        return self._push(print_stats={"state": "printing", "filename": params["filename"], "total_duration": 0.0})

    def _job(self, state: str) -> str:
        return self._push(print_stats={"state": state})

    def _restart(self) -> str:
        self.status = copy.deepcopy(STATUS)
        self._send("notify_klippy_disconnected")
        self._send("notify_klippy_ready")
        return "ok"


def _webcam(url: str) -> dict[str, Any]:
    return {
        "name": "front", "enabled": True, "service": "mjpegstreamer", "snapshot_url": url, "stream_url": url,
        "uid": "1",
        "flip_horizontal": False, "flip_vertical": False, "rotation": 0, "location": "printer", "target_fps": 15,
        "aspect_ratio": "4:3", "icon": "", "extra_data": {}, "source": "database",
    }  # fmt: skip
