"""One printer's lifetime: two links that know nothing of each other, and the printer between them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from printago_moonraker import __version__, announcement, status
from printago_moonraker.backoff import Backoff
from printago_moonraker.commands.executor import Executor
from printago_moonraker.commands.interrupted import answer_interrupted
from printago_moonraker.commands.lanes import Lanes
from printago_moonraker.commands.registry import Context
from printago_moonraker.events import EventSource, GcodeErrors, file_events, trouble
from printago_moonraker.log import printable
from printago_moonraker.moonraker.api import Moonraker
from printago_moonraker.moonraker.connection import connect
from printago_moonraker.moonraker.rpc import RpcError
from printago_moonraker.moonraker.webcams import read_webcams
from printago_moonraker.printago.envelope import Dialect, EnvelopeCodec, topics_for
from printago_moonraker.printago.link import Link
from printago_moonraker.printago.login import login_for
from printago_moonraker.printer import macro
from printago_moonraker.printer.camera import Cameras
from printago_moonraker.printer.gcode import plain
from printago_moonraker.printer.jobs import Jobs
from printago_moonraker.printer.klippy import KlippyWatch
from printago_moonraker.printer.loaded import LoadedFile
from printago_moonraker.printer.printer import Printer
from printago_moonraker.printer.prints import Change
from printago_moonraker.reporter import Reporter
from printago_moonraker.supervise import supervise

if TYPE_CHECKING:
    from datetime import datetime

    from printago_moonraker.clock import Clock
    from printago_moonraker.config import Config, PrinterConfig
    from printago_moonraker.events import Event
    from printago_moonraker.printago.endpoint import Message
    from printago_moonraker.printago.store import Destinations, Record, Store, Write
    from printago_moonraker.printer.prints import Transition

logger = logging.getLogger(__name__)

FIRST_LOOK = 5.0  # s in which commands wait for the printer to come into sight
PROVED = 5.0  # s; what accepts and drops, or hangs at the first question, is no Moonraker to go back to at once
MOONRAKER_BACKOFF = 10.0  # s at most between two attempts: it is on this host or near, and a print may be under way

Handler = Callable[[Any], None]


class Session:
    """Everything of one printer. `run` is its lifetime; nothing of it outlives that."""

    def __init__(self, settings: Config, config: PrinterConfig, store: Store, clock: Clock) -> None:
        self._settings = settings
        self._config = config
        self._clock = clock
        self._store = store.of(config.printer_id)
        self.printer = Printer(config, settings, emit=self._emit)
        self.printer.on_change = self._on_change
        self.printer.remember = self._remember
        self._memory: Any = None  # of the print, as it is stored
        self._events = EventSource(self.printer)
        self._link = self._make_link()
        self._reporter = Reporter(self.printer, settings.status, self._send_status, lambda: self._link.up)
        self._executor: Executor | None = None
        self._watch: KlippyWatch | None = None
        self._announced: dict[str, Any] = {}
        self._macros = macro.MacroEvents()
        self._file = LoadedFile(self.printer)
        self._image_due = True  # the next status shows the thumbnail's picture, if there is one
        self._gcode_errors = GcodeErrors()
        self._handlers: dict[str, Handler] = {
            "notify_status_update": lambda params: self.printer.apply(params[0], float(params[1])),
            "notify_gcode_response": lambda params: self._on_gcode_response(str(params[0])),
            "notify_klippy_ready": lambda _: self._on_klippy(KlippyWatch.ready),
            "notify_klippy_disconnected": lambda _: self._on_klippy(KlippyWatch.disconnected),
            "notify_history_changed": lambda params: self._on_history(params[0]),
            "notify_filelist_changed": lambda params: self._on_file(params[0]),
            "notify_webcams_changed": lambda params: self._on_webcams(params[0].get("webcams") or []),
            macro.METHOD: self._on_macro,
            "notify_proc_stat_update": lambda params: self._on_host(params[0]),
            "notify_cpu_throttled": lambda params: self._on_throttled(params[0]),
        }

    async def run(self) -> None:
        """Serve the printer until cancelled; then say `Shutdown` and `disconnected`. Never returns by itself."""
        unfinished, stops = await self._recall()
        self._emit("Startup", {"version": __version__})
        name, store, clock = self._config.name, self._store, self._clock
        async with asyncio.TaskGroup() as links:
            link = links.create_task(self._link.run(), name=f"link {name}")
            try:
                async with asyncio.TaskGroup() as work:
                    cameras = Cameras(self.printer, work, self._link.publish_frame)
                    context = Context(self.printer, Jobs(self.printer), Lanes(), cameras)
                    self._executor = Executor(
                        context, work, self._answer, store, clock, known_stops=stops, first_look=FIRST_LOOK
                    )
                    work.create_task(answer_interrupted(self.printer, unfinished, store, self._answer, clock))
                    near = Backoff(cap=MOONRAKER_BACKOFF)
                    work.create_task(supervise(f"{name}: Moonraker", self._moonraker, near), name=f"moonraker {name}")
                    work.create_task(self._reporter.run(), name=f"reporter {name}")
            finally:
                # The commands under way have said their last word by now; the link carries it out.
                self._emit("Shutdown", {})
                link.cancel()

    async def _recall(self) -> tuple[list[Record], set[str]]:
        """What an earlier process left: its print, its unfinished commands, and the emergency stops that it knew."""
        unfinished, stops = self._store.unfinished(), self._store.keys_of("printer_control.emergency_stop")
        memory = await self._store.load_job()
        try:
            if memory is not None:
                self.printer.prints.recall(memory)
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("%s: what is stored of the print cannot be read: %r", self._config.name, error)
        self._memory = memory
        return await unfinished, await stops

    def _news_of_the_print(self) -> Write | None:
        """What is to be written, when there is anything that a restart must not forget."""
        memory = self.printer.prints.memory()
        if memory == self._memory:
            return None
        self._memory = memory
        return self._store.job(memory)

    async def _remember(self) -> None:
        write = self._news_of_the_print()
        if write is not None:
            await self._store.save(write)

    # ------------------------------------------------------------------------------------------------- to Printago

    def _make_link(self) -> Link:
        printago, printer_id = self._settings.printago, self._config.printer_id
        return Link(
            login_for(self._settings, printer_id),
            topics_for(self._settings, self._config),
            EnvelopeCodec(printer_id, printago.client_type, Dialect(printago.dialect)),
            self._store,
            on_command=self._on_command,
            on_up=self._on_up,
            name=f"{self._config.name}: Printago",
        )

    def _on_up(self) -> None:
        """Printago is there (again): say who is here, and how it stands now."""
        self._announced = announcement.pairing(self.printer)
        self._link.send("pairing", self._announced)
        self._image_due = True
        self._reporter.report()

    def _announce_news(self) -> None:
        """The printer's equipment is known now, or is another one since Klipper's restart: Printago is told."""
        announced = announcement.pairing(self.printer)
        if self._link.up and announced != self._announced:
            if self._announced.get("printer", {}).get("kinematics"):
                self._emit("SettingsUpdated", {})
            self._announced = announced
            self._link.send("pairing", announced)

    def _on_command(self, message: Message) -> None:
        if self._executor is not None:
            self._executor.receive(message)

    def _answer(
        self,
        kind: str,
        data: dict[str, Any],
        echo: dict[str, str],
        reply_to: Message | Destinations,
        *,
        also: Write | None,
        at: datetime,
    ) -> asyncio.Future[list[int]] | None:
        return self._link.send(kind, data, command=echo, reply_to=reply_to, also=also, at=at)

    def _send_status(self) -> None:
        self._link.send_status(self._status)

    def _status(self) -> dict[str, Any]:
        """With the thumbnail's picture when the job is another one, or Printago may have missed the last such status:
        it is many times as large as all the rest.
        """
        with_image = self._image_due and self.printer.thumbnail is not None
        self._image_due = self._image_due and not with_image
        return status.build(self.printer, with_image=with_image)

    def _emit(self, name: str, payload: dict[str, Any]) -> None:
        self._tell([(name, payload)])

    def _tell(self, events: list[Event], also: Write | None = None) -> None:
        """Send events of one moment; all of them are stored, with what `also` writes, or none is."""
        self._link.send_events(events, also)
        for name, payload in events:
            # For a cloud that knows only the plugin each `error` answers a command: news must not look like one.
            if name == "Error" and self._settings.printago.dialect != Dialect.OCTOPRINT:
                self._link.send("error", trouble(payload))

    # ---------------------------------------------------------------------------------------------- from the printer

    async def _moonraker(self, backoff: Backoff) -> None:
        """One connection to Moonraker, from its opening to its end."""
        try:
            await self._serve_moonraker(backoff)
        finally:
            self._watch = None
            self.printer.detach()

    async def _serve_moonraker(self, backoff: Backoff) -> None:
        config, printer = self._config, self.printer
        key = config.moonraker_api_key
        async with connect(
            config.moonraker_url,
            api_key=key,
            on_notification=self._on_notification,
            ca_file=config.moonraker_ca_file,
        ) as connection:
            api = Moonraker(connection)
            await api.identify(__version__, key, client_name=config.client_name)
            printer.versions["moonraker"] = (await api.server_info()).moonraker_version
            await self._read_webcams(api)
            self._on_host(await api.proc_stats())
            await self._register_macro_method(api)
            self._watch = KlippyWatch(printer, api)
            printer.attach(api)
            logger.info("%s: connected to Moonraker %s", config.name, printer.versions["moonraker"])
            proved = asyncio.get_running_loop().call_later(PROVED, backoff.reset)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._watch.run())
                    tasks.create_task(self._file.run(api))
                    await connection.wait_closed()
            finally:
                proved.cancel()

    async def _read_webcams(self, api: Moonraker) -> None:
        """Which cameras there are; a Moonraker too old to say so is served all the same."""
        try:
            self._on_webcams(await api.webcams_list())
        except RpcError as error:
            logger.warning("%s: no webcams: %s", self._config.name, error)

    async def _register_macro_method(self, api: Moonraker) -> None:
        """Let macros raise events; a Moonraker that cannot is served all the same."""
        try:
            await api.register_remote_method(macro.METHOD)
        except RpcError as error:
            logger.warning("%s: macros cannot raise events: %s", self._config.name, error)

    def _on_notification(self, method: str, params: Any) -> None:
        handler = self._handlers.get(method)
        if handler is not None:
            handler(params)

    def _on_klippy(self, tell: Callable[[KlippyWatch], None]) -> None:
        if self._watch is not None:
            tell(self._watch)

    def _on_change(self, transitions: list[Transition]) -> None:
        """After every change of the printer: what happened goes out as events, how it stands as a status."""
        news = self._news_of_the_print()
        self._image_due |= any(each.change is Change.STARTED for each in transitions)
        events = list(self._events.events(transitions))
        if events:  # the print and what is told of it are written together
            self._tell(events, news)
        elif news is not None:
            self._store.save(news, lazy=True)
        if any(name == "Connected" for name, _ in events):
            self._announce_news()
        self._image_due |= self._file.look()
        self._reporter.mark()

    def _on_gcode_response(self, text: str) -> None:
        if text == "Done printing file":
            self.printer.prints.file_done()
        elif text.startswith("// Klipper state: Shutdown"):
            self._on_klippy(KlippyWatch.shutdown)
        elif text.startswith("!!"):
            message, now = printable(plain(text.removeprefix("!!"))), time.monotonic()
            self.printer.prints.gcode_error(message, now)
            payload = self._gcode_errors.take(message, now)
            if payload is not None:
                self._emit("Error", payload)

    def _on_macro(self, params: Any) -> None:
        payload, reason = self._macros.take(params, time.monotonic())
        if reason:
            logger.warning("%s: %s", self._config.name, reason)
        if payload is not None:
            self._emit("Message", payload | self.printer.prints.identity())

    def _on_history(self, params: dict[str, Any]) -> None:
        job = params.get("job") or {}
        if params.get("action") == "added":
            self.printer.prints.enter(str(job.get("filename")), str(job.get("job_id")))
        self._file.history_changed()

    def _on_file(self, params: dict[str, Any]) -> None:
        for name, payload in file_events(params):
            self._emit(name, payload)
            if payload["path"] == self.printer.state.filename:
                self._file.reload()
                self._image_due = True

    def _on_webcams(self, entries: list[dict[str, Any]]) -> None:
        webcams = read_webcams(entries, self._config.moonraker_url)
        if webcams != self.printer.webcams:
            self.printer.webcams = webcams
            self._announce_news()

    def _on_host(self, stats: dict[str, Any]) -> None:
        memory = stats.get("system_memory") or {}
        host = self.printer.state.host
        host["clock"] = self._clock.complaint()
        host["cpu_temperature"] = stats.get("cpu_temp")
        host["load"] = (stats.get("system_cpu_usage") or {}).get("cpu")
        host["memory"] = {name: memory[name] * 1024 for name in ("total", "available", "used") if name in memory}
        if "throttled_state" in stats:
            self._on_throttled(stats["throttled_state"] or {})

    def _on_throttled(self, state: dict[str, Any]) -> None:
        self.printer.state.host["throttled"] = list(state.get("flags") or [])
