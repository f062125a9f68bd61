"""One printer, as both links meet it: commands go down through it, state comes up from it.

It owns the state, the current print, and the way in which a command's outcome is judged: by what the printer shows,
never by what a call returned.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from printago_moonraker import errors
from printago_moonraker.log import printable
from printago_moonraker.moonraker.api import KlippyState, Moonraker
from printago_moonraker.moonraker.rpc import RpcError, RpcTimeout
from printago_moonraker.printer import gcode
from printago_moonraker.printer.facts import Facts
from printago_moonraker.printer.names import same_file
from printago_moonraker.printer.phase import Phase, phase_of
from printago_moonraker.printer.prints import Change, PrintTracker, Transition
from printago_moonraker.printer.state import JobState, PrinterState

if TYPE_CHECKING:
    from printago_moonraker.config import Config, PrinterConfig
    from printago_moonraker.moonraker.thumbnails import Image
    from printago_moonraker.moonraker.webcams import Webcam
    from printago_moonraker.printer.history import Entries

logger = logging.getLogger(__name__)

# After a call returned, Klipper's status follows within a tick of 250 ms; a loaded Pi gets more.
SETTLE = 5.0
TICK = 0.5
# Klipper may take as long as the printer's own macros and heaters need. Past this, the sentence says that the outcome
# is unknown.
PATIENCE = 600.0

Seen = Callable[[], bool]


class Printer:
    """State, current print and equipment of one printer. Lives as long as its session; touched only from the event
    loop.
    """

    def __init__(self, config: PrinterConfig, settings: Config, *, emit: Callable[[str, dict[str, Any]], None]) -> None:
        """`emit(event, payload)` sends an event to Printago."""
        self.config = config
        self.settings = settings
        self.emit = emit
        self.state = PrinterState()
        self.facts = Facts()
        self.prints = PrintTracker()
        self._operations: list[Phase] = []  # the agent's own that are under way, the newest last
        self.metadata: dict[str, Any] = {}  # Moonraker's, of the file that is loaded
        self.thumbnail: Image | None = None  # of that file, once it has been fetched
        self.print_times: tuple[float, ...] = ()  # seconds that this file took before, newest first
        self.slicer_progress: float | None = None  # M73's word in this print, 0..1
        self._old_progress: float | None = None  # M73's value of the file before, which stays until a file sets its own
        self.versions: dict[str, str | None] = {"klipper": None, "moonraker": None}
        self.webcams: tuple[Webcam, ...] = ()
        self.halts = 0  # times that Klipper was seen to shut down or to fail
        self.on_change: Callable[[list[Transition]], None] = lambda _: None
        self.remember: Callable[[], Awaitable[None]] = (
            _forget  # keep what must survive a restart; returns when it is kept
        )
        self._api: Moonraker | None = None
        self._was_ready = False  # since it stopped the last time
        self.halting = False
        self._overtaking: list[tuple[Mapping[str, Mapping[str, Any]], float]] | None = None
        self._watchers: dict[asyncio.Future[None], Seen] = {}

    # ------------------------------------------------------------------------------------------------ what comes up

    @property
    def under_way(self) -> Phase | None:
        """What the agent itself does: STARTING, PAUSING, RESUMING or CANCELLING."""
        return self._operations[-1] if self._operations else None

    @property
    def phase(self) -> Phase:
        state = self.state
        return phase_of(
            moonraker=state.moonraker,
            klippy=state.klippy,
            # A newer Klipper's word that is not known: it is as busy with the print as it was.
            job=JobState.PRINTING if state.job is JobState.UNKNOWN and self.prints.current else state.job,
            under_way=self.under_way,
            progress=state.get("virtual_sdcard", "progress", 0.0),
        )

    def attach(self, api: Moonraker) -> None:
        """Moonraker is there; Klipper's state is not known yet."""
        self._api = api
        self.state.moonraker = True

    def detach(self) -> None:
        """Moonraker is gone, or was never there. What Klipper said before is dropped: a picture that cannot be true
        must not be shown.
        """
        self._api = None
        self.prints.lost_sight()
        self.state.moonraker = False
        self.klippy_is(KlippyState.UNKNOWN)

    def snapshot(self, status: Mapping[str, Mapping[str, Any]], eventtime: float = 0.0) -> None:
        """Klipper's whole status, at `eventtime` on Klipper's clock in s."""
        self.state.snapshot(status)
        self.halting = False
        # Deltas that overtook the snapshot on its way here are newer than it.
        for delta, time_of_delta in self._overtaking or ():
            if time_of_delta > eventtime:
                self.state.apply(delta)
        self._overtaking = None
        self.changed()

    def expect_snapshot(self) -> None:
        """A subscription is on its way: until its snapshot is taken in, deltas are kept for it."""
        self._overtaking = []

    def apply(self, delta: Mapping[str, Mapping[str, Any]], eventtime: float = 0.0) -> None:
        if self._overtaking is not None:
            self._overtaking.append((delta, eventtime))
        self.state.apply(delta)
        self.changed()

    def halt(self) -> None:
        """Klipper shuts down; why, it will say in a moment. Whatever it answers "ok" to from now on was cut short."""
        self.halting = True

    def klippy_is(self, state: KlippyState, message: str = "") -> None:
        self.halting, self._overtaking = False, None
        self.state.klippy_is(state, message)
        self.changed()

    def _note_slicer_progress(self) -> None:
        """Keep M73's value: while the print is paused, Klipper shows the file position in its place."""
        shown = self.state.number("display_status", "progress")
        if shown is not None and shown not in (self.state.number("virtual_sdcard", "progress"), self._old_progress):
            self.slicer_progress = shown

    def settle(self, entries: Entries) -> None:
        """The newest entries of Moonraker's history: what became of the print while the printer was out of sight."""
        self.on_change(self.prints.settle_by(entries, self.state))
        self.changed()

    def changed(self) -> None:
        """Tell everybody who waits, synchronously, so that no state between two awaits is missed."""
        if self.state.klippy is KlippyState.READY:
            self._was_ready = True
        elif self.state.klippy in (KlippyState.SHUTDOWN, KlippyState.ERROR) and self._was_ready:
            self._was_ready = False
            self.halts += 1
        transitions = self.prints.observe(self.state, time.monotonic(), cancelling=Phase.CANCELLING in self._operations)
        if any(transition.change is Change.STARTED for transition in transitions):
            self._old_progress, self.slicer_progress = self.state.number("display_status", "progress"), None
        self._note_slicer_progress()
        self.on_change(transitions)
        for future, seen in list(self._watchers.items()):
            if not future.done() and seen():
                future.set_result(None)

    # ---------------------------------------------------------------------------------------------- what goes down

    @property
    def api(self) -> Moonraker:
        """Moonraker's calls. Raises PrinterOffline while it is not connected."""
        if self._api is None:
            raise errors.PrinterOffline(f"Moonraker at {self.config.moonraker_url} is not reachable.")
        return self._api

    def require_running(self) -> None:
        """Raises PrinterOffline unless there is a Klipper, in whichever state."""
        _ = self.api
        if self.state.klippy is KlippyState.DISCONNECTED:
            raise errors.PrinterOffline("Klipper is not running on the printer's host.")

    def require_ready(self) -> None:
        """Raises PrinterOffline or PrinterNotReady, with what Klipper says, unless Klipper takes commands."""
        self.require_running()
        klippy, message = self.state.klippy, printable(gcode.first_line(self.state.klippy_message))
        if klippy is not KlippyState.READY:
            raise errors.PrinterNotReady(
                f"Klipper is not ready ({klippy}): {message}" if message else f"Klipper is not ready ({klippy})."
            )

    def busy(self) -> errors.Busy:
        """What is said of a command that the print is in the way of."""
        return errors.Busy(f"The printer is busy ({self.phase.lower()} {printable(self.state.filename)}).")

    @contextmanager
    def operation(self, phase: Phase) -> Iterator[None]:
        """Show `phase` (STARTING, PAUSING, RESUMING, CANCELLING) until the printer or the command is done with it."""
        # A stop overtakes a pause that waits for a heater, and either may end first.
        self._operations.append(phase)
        self.changed()
        try:
            yield
        finally:
            self._operations.remove(phase)
            self.changed()

    async def until(self, seen: Seen, timeout: float) -> bool:
        """Wait until `seen()` is true of the state; False after `timeout` seconds. Cancelling is safe."""
        if seen():
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers[future] = seen
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            return False
        finally:
            del self._watchers[future]
        return True

    async def look_again(self) -> None:
        """Ask Klipper how the print stands: before it is said that nothing needs to be done, because what is shown may
        be a tick old, or older when Klipper stood still. Raises RpcTimeout, ConnectionLost or the refusal's error.
        """
        try:
            self.apply(*await self.api.query({"print_stats": None}))
        except RpcError as error:
            raise gcode.refusal(error) from None

    async def carry_out(
        self, what: str, call: Awaitable[Any], seen: Seen | None = None, *, timeout: float = PATIENCE
    ) -> None:
        """Make a call to Klipper and judge it by what the printer shows: done when `seen()`, or, without `seen`, when
        the call returned.

        `what` names the action in sentences ("The pause"). Raises the CommandError that Klipper's refusal means,
        PrinterNotReady when Klipper stops meanwhile, OutcomeUnknown after `timeout` seconds. Cancelling gives up the
        waiting, not what Klipper has accepted.
        """
        calling = asyncio.ensure_future(call)
        watching = asyncio.ensure_future(self._watch(seen))
        try:
            async with asyncio.timeout(timeout):
                await asyncio.wait({calling, watching}, return_when=asyncio.FIRST_COMPLETED)
                if not watching.done():
                    await self._judge_answer(what, calling, seen)
        except TimeoutError:
            raise errors.OutcomeUnknown(
                f"{what} was not seen within {timeout:.0f} s; its outcome is unknown."
            ) from None
        finally:
            for task in (calling, watching):
                task.cancel()
            await asyncio.gather(calling, watching, return_exceptions=True)
        self._still_standing(what, seen)

    async def _watch(self, seen: Seen | None) -> None:
        """Ends when the goal is seen, or when Klipper has stopped and can only be waited for in vain."""
        await self.until(lambda: self._stopped() or bool(seen and seen()), PATIENCE * 2)

    async def _judge_answer(self, what: str, calling: asyncio.Future[Any], seen: Seen | None) -> None:
        try:
            calling.result()
        except RpcError as error:
            refusal = gcode.refusal(error)
            self.prints.not_the_files(printable(gcode.first_line(error.message)))
            # A macro can fail when it has done its work, and the status comes up to a tick later than the answer.
            if seen and await self.until(seen, TICK):
                return
            raise refusal from None
        except (errors.ConnectionLost, RpcTimeout) as error:
            # Klipper may have accepted it. Only the printer can tell.
            logger.info("%s: %s; watching what the printer does", what, error)
            if seen is None or not await self.until(seen, SETTLE * 6):
                raise errors.OutcomeUnknown(f"{what} got no answer ({error}); its outcome is unknown.") from None
        else:
            if seen and not await self.until(lambda: self._stopped() or seen(), SETTLE):
                raise errors.OutcomeUnknown(
                    f"Klipper accepted it, but {what[0].lower()}{what[1:]} was not seen within {SETTLE:.0f} s; its "
                    "outcome is unknown."
                )

    def _stopped(self) -> bool:
        """Klipper is known to have stopped; while it is out of sight it may well go on."""
        up = (KlippyState.READY, KlippyState.UNKNOWN)
        return self.halting or bool(self.state.moonraker and self.state.klippy not in up)

    def _still_standing(self, what: str, seen: Seen | None) -> None:
        """An emergency stop makes Klipper answer "ok" to what it cut short."""
        if self._stopped() and not (seen and seen()):
            if self.state.klippy is KlippyState.DISCONNECTED:
                raise errors.PrinterOffline(f"{what} was cut short: Klipper is not running any more.")
            said = "" if self.halting else printable(gcode.first_line(self.state.klippy_message))
            message = said or "Klipper has stopped"
            raise errors.PrinterNotReady(f"{what} was cut short: {message}.")

    async def turn(self, what: str, *, timeout: float = PATIENCE, deadline: float = math.inf) -> None:
        """Wait until Klipper has run all G-code that it was given before, by whomever.

        Behind a heating macro, what is handed over runs when nobody wants it any more, and nothing takes it back. So an
        empty script goes first; until that is answered, nothing has been done. `deadline` is on the monotonic clock.
        Raises Expired, Busy, PrinterOffline, PrinterNotReady. Cancelling is safe.
        """
        patience = min(timeout, max(0.0, deadline - time.monotonic()))
        try:
            await self.carry_out(what, self._wait_for_turn(), timeout=patience)
        except errors.OutcomeUnknown:
            if time.monotonic() >= deadline:
                raise errors.Expired("The command expired while Klipper ran other G-code; nothing was done.") from None
            raise errors.Busy(f"Klipper ran other G-code for {patience:.0f} s, so nothing was done.") from None

    async def _wait_for_turn(self) -> None:
        try:
            await self.api.gcode_script("")
        except errors.ConnectionLost as error:
            raise errors.PrinterOffline(f"{error} Nothing was done.") from None

    async def script(
        self,
        what: str,
        script: str,
        seen: Seen | None = None,
        *,
        timeout: float = PATIENCE,
        deadline: float = math.inf,
    ) -> None:
        """Run G-code made by `printer.gcode` when Klipper comes to it before `deadline`; see `turn` and `carry_out`."""
        await self.turn(what, timeout=timeout, deadline=deadline)
        await self.carry_out(what, self.api.gcode_script(script), seen, timeout=timeout)

    def is_printing(self, filename: str) -> bool:
        """Whether that file (relative to the gcodes root) is the job that is on, running or paused. In a shutdown,
        Klipper goes on showing one that can never be resumed.
        """
        on = self.state.klippy is KlippyState.READY and self.state.job.on
        return on and same_file(self.state.filename, filename)


async def _forget() -> None:
    """For a printer without a store."""
