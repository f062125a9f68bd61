"""What is said of commands that were under way when the agent died: never run again, answered from what can be seen."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from printago_moonraker import errors, status
from printago_moonraker.log import printable
from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.moonraker.rpc import RpcError, RpcTimeout
from printago_moonraker.printer import history

if TYPE_CHECKING:
    from printago_moonraker.clock import Clock
    from printago_moonraker.commands.executor import SendAnswer
    from printago_moonraker.printago.store import PrinterStore, Record
    from printago_moonraker.printer.printer import Printer

logger = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds for the printer to come into sight
_SEEN = (KlippyState.READY, KlippyState.SHUTDOWN, KlippyState.ERROR)
_STARTS = ("printer_control.start_print", "printer_control.start_print_bbl")
_HISTORY = 20


async def answer_interrupted(
    printer: Printer, records: list[Record], ledger: PrinterStore, answer: SendAnswer, clock: Clock
) -> None:
    """Answer what an earlier process left unfinished, once the printer is seen, or after half a minute without it.

    Cancelling is safe: what is not answered yet is left for the next start.
    """
    if not records:
        return
    await printer.until(lambda: printer.state.klippy in _SEEN, PATIENCE)
    left = {record.key for record in await ledger.unfinished()}
    for record in records:
        if record.key not in left:
            continue  # it was another account's command, and this printer is that one's no longer
        what = f"{record.name} of {printable(record.subject)}" if record.subject else record.name or "the command"
        shown = await _shown(printer, record)
        error = errors.Interrupted(f"The agent was stopped while {what} was under way. {shown}")
        logger.info("%s: %s", printer.config.name, error)
        data = {"error": str(error), "code": error.code}
        at = clock.now()
        reply_to = ((record.topic, record.correlation),) if record.topic else ()
        end = ledger.ended(record.key, "error", data, at.timestamp())
        answer("error", data, record.echo, reply_to, also=end, at=at)


async def _shown(printer: Printer, record: Record) -> str:
    """What the printer shows now, and, for a start, what became of the print."""
    if not printer.state.moonraker:
        return "The printer cannot be reached to see what came of it."
    loaded = f" ({printable(printer.state.filename)})" if printer.state.filename else ""
    state = f"The printer now shows: {status.state_string(printer).rstrip('.')}{loaded}."
    if record.name not in _STARTS or not record.subject:
        return state
    return f"{await _outcome(printer, record.subject, record.received)} {state}"


async def _outcome(printer: Printer, path: str, received: float) -> str:
    name = printable(path)
    if printer.is_printing(path):
        return f"The print of {name} is running."
    try:
        entries = await printer.api.history_list(limit=_HISTORY)
    except (RpcError, RpcTimeout, errors.LinkError, errors.PrinterOffline):
        return f"Whether {name} was printed is not known."
    for job in entries:
        if history.is_of(job, path) and _number(job.get("start_time")) >= received - history.SAME_CLOCK:
            return f"The print of {name} was started; it has ended: {printable(str(job.get('status')))}."
    return f"No print of {name} has begun."


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
