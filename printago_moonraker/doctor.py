"""What is wrong, and what to do about it: checks in the order in which they depend on each other.

A check whose condition is broken is not made: the first broken one is what has to be mended.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from printago_moonraker import config, findings
from printago_moonraker.clock import Clock, Trust
from printago_moonraker.errors import AgentError, CommandError, ConfigError, ConnectionRefused
from printago_moonraker.findings import Check, Failed, Outcome, Report, as_json, as_text, exit_code, plain
from printago_moonraker.log import printable
from printago_moonraker.moonraker.api import KlippyState, Moonraker
from printago_moonraker.moonraker.connection import connect
from printago_moonraker.moonraker.webcams import read_webcams
from printago_moonraker.pair import codec_for
from printago_moonraker.printago import pairing
from printago_moonraker.printago.endpoint import endpoint_for, in_thread
from printago_moonraker.printago.envelope import topics_for
from printago_moonraker.printer import picture
from printago_moonraker.printer.camera import fetch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from printago_moonraker.config import Config, PrinterConfig
    from printago_moonraker.moonraker.webcams import Webcam
    from printago_moonraker.printago.endpoint import Endpoint

T = TypeVar("T")

OVERALL: Final = 55.0  # s
AT_ONCE: Final = 8  # printers whose topics are tried at the same time
SERVED: Final = ("config", "gcodes", "logs", "docs")  # Moonraker's roots, in its data folder
INSTANCE: Final = re.compile(r"printer(_.*)?_data")
MIN_FREE: Final = 100 * 1024 * 1024  # bytes: the outbox of a long outage, and the log


async def examine(given: Path | None) -> list[Check]:
    """All checks of configuration file `given` (None: the default one), within a minute. Cancelling is safe."""
    first = Report()
    settings = await first.make("config", _config(given), "disk, clock, Moonraker, Klipper, webcams, " + CLOUD)
    if settings is None:
        return first.checks
    await first.make("disk", _disk(settings))
    for saw, todo in _data_folder(settings.printago.data_path):
        first.add("data folder", Outcome.WARNING, saw, todo)
    await first.make("clock", _clock())
    cloud, printers = Report(), [Report(each.name) for each in settings.printers]
    chains = [partial(_cloud, settings, cloud)]
    chains += [partial(_printer, report, each) for report, each in zip(printers, settings.printers, strict=True)]
    tasks = [asyncio.create_task(chain()) for chain in chains]
    try:
        _, late = await asyncio.wait(tasks, timeout=OVERALL)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if late:
        first.add("time", Outcome.FAILED, f"not all could be checked within {OVERALL:.0f} s", "Run it again.")
    for task in tasks:
        if not task.cancelled():
            task.result()  # raises a defect
    return [each for report in (first, *printers, cloud) for each in report.checks]


# ------------------------------------------------------------------------------------------------------- on this host


async def _config(given: Path | None) -> tuple[Config, str]:
    try:
        found = config.load(given)
    except ConfigError as error:
        raise Failed(str(error), "Correct the file; docs/configuration.md has all options.") from error
    names = ", ".join(printer.name for printer in found.printers)
    there = "" if found.path.exists() else " (not there: all defaults)"
    return found, f"{found.path}{there}; {'printer' if len(found.printers) == 1 else 'printers'} {names}"


async def _disk(settings: Config) -> tuple[bool, str]:
    folder = settings.printago.data_path
    there = next(each for each in (folder, *folder.parents) if os.access(each, os.F_OK))
    if not os.access(there, os.W_OK | os.X_OK):
        raise Failed(
            f"{there} cannot be written to",
            "Run this as the user of the agent, or give the folder to it (chown); else change data_path.",
        )
    usage = shutil.disk_usage(there)
    saw = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB free at {folder}"
    if usage.free < MIN_FREE:
        raise Failed(saw, "Delete old G-code files, logs or backups.")
    return True, saw


def _data_folder(folder: Path) -> Iterator[tuple[str, str]]:
    """What else is wrong with the folder that holds the key, and what to do."""
    try:
        mode = folder.stat().st_mode & 0o777
    except OSError:  # there is none yet, or `disk` has said it
        mode = 0
    if mode & 0o077:
        yield f"{folder} is open to other users of this host ({mode:04o})", f"chmod 700 {shlex.quote(str(folder))}"
    for each in (folder, *folder.parents):
        data = each.parent
        if each.name in SERVED and (INSTANCE.fullmatch(data.name) or os.access(data / "moonraker.asvc", os.F_OK)):
            saw = f"{folder} is in {each}, whose files Moonraker shows to everyone whom it lets in"
            yield (
                saw,
                f"Set data_path to a folder beside it, like {data / 'printago'}, move the files, restart the agent.",
            )


async def _clock() -> tuple[bool, str]:
    clock = Clock()
    complaint = clock.complaint()
    if complaint:
        raise Failed(complaint, "Connect the host to the network and wait a minute; see timedatectl.")
    doubt = "" if clock.trust() is Trust.VERIFIED else "; nothing tells whether it is synchronised"
    return True, f"{clock.now():%Y-%m-%d %H:%M:%S} UTC{doubt}"


# --------------------------------------------------------------------------------------------------------- one printer


async def _printer(report: Report, printer: PrinterConfig) -> None:
    if await report.make("Moonraker", _moonraker(printer), "Klipper, webcams"):
        await report.make("Klipper", _klipper(printer))
        await report.make("webcams", _webcams(printer))


@asynccontextmanager
async def _api(printer: PrinterConfig) -> AsyncIterator[Moonraker]:
    """A connection beside the agent's: it does not identify itself, because the name is the agent's."""
    key = printer.moonraker_api_key
    async with connect(
        printer.moonraker_url, api_key=key, on_notification=lambda *_: None, ca_file=printer.moonraker_ca_file
    ) as connection:
        yield Moonraker(connection)


async def _moonraker(printer: PrinterConfig) -> tuple[bool, str]:
    try:
        async with _api(printer) as api:
            info = await api.server_info()
    except AgentError as error:
        todo = "Check moonraker_url, and that Moonraker runs (systemctl status moonraker)."
        raise Failed(str(error), "" if isinstance(error, ConnectionRefused) else todo) from error  # it says so itself
    return True, f"{info.moonraker_version} at {printer.moonraker_url}"


async def _klipper(printer: PrinterConfig) -> tuple[bool, str]:
    try:
        async with _api(printer) as api:
            server = await api.server_info()
            if not server.klippy_connected:
                raise Failed("Moonraker does not reach Klipper", "Start Klipper (systemctl status klipper).")
            info = await api.printer_info()
    except AgentError as error:
        raise Failed(str(error), "Look into klippy.log.") from error
    if info.state is not KlippyState.READY:
        why = info.state_message.strip().partition("\n")[0]
        starting = info.state is KlippyState.STARTUP
        todo = "Wait a minute." if starting else "Mend what it says, then run FIRMWARE_RESTART."
        raise Failed(f"{info.state}: {why}", todo)
    return True, f"{info.software_version}, ready"


async def _webcams(printer: PrinterConfig) -> tuple[bool, str]:
    try:
        async with _api(printer) as api:
            webcams = read_webcams(await api.webcams_list(), printer.moonraker_url)
    except AgentError as error:
        raise Failed(str(error), "Look into moonraker.log.") from error
    useful = [webcam for webcam in webcams if webcam.can_snapshot]
    bad = [why for why in await asyncio.gather(*map(_complaint, useful)) if why]
    if bad:
        raise Failed(" ".join(bad), "Check the webcam in Mainsail or Fluidd, and its snapshot URL there.")
    if not useful:
        return True, f"none that gives pictures, {len(webcams)} in all" if webcams else "none"
    return True, ", ".join(f"{webcam.name}: a picture" for webcam in useful)


async def _complaint(webcam: Webcam) -> str | None:
    try:
        picture.read(await fetch(webcam))
    except CommandError as error:
        return str(error)
    except ValueError as error:
        return f"The camera {printable(webcam.name, 60)} sent what is of no use: {error}."
    return None


# -------------------------------------------------------------------------------------------------------- the broker

CLOUD: Final = "name resolution, broker, login, topic rights"


async def _cloud(settings: Config, report: Report) -> None:
    """Under client IDs of its own, because with the agent's it would throw the agent out."""
    if await report.make("name resolution", _resolve(settings), CLOUD.partition(", ")[2]) is None:
        return
    try:
        login = settings.login()
        refused = None
    except AgentError as error:
        login, refused = settings.mqtt, error
    endpoint = _own(endpoint_for(login, settings.printers[0].printer_id))
    reached = await report.make("broker", _reach(endpoint), "login, topic rights")
    if reached is None:
        return
    if await report.make("login", _login(endpoint, refused), "topic rights"):
        await report.make("topic rights", _topics(settings, login), limit=OVERALL)


def _own(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, client_id=f"{endpoint.client_id}-doctor", session_expiry=0)


async def _resolve(settings: Config) -> tuple[bool, str]:
    mqtt = settings.mqtt
    found: list[str] = []

    def ask() -> None:
        answers = socket.getaddrinfo(mqtt.host, mqtt.port, type=socket.SOCK_STREAM)
        found.extend(dict.fromkeys(str(address[0]) for *_, address in answers))

    endpoint = endpoint_for(mqtt, "")
    await _link(in_thread(endpoint, ask, lambda: None), endpoint)
    return True, f"{mqtt.host} is {', '.join(found[:4])}"


async def _reach(endpoint: Endpoint) -> tuple[bool, str]:
    """TCP and TLS, without a word of MQTT."""
    await _link(in_thread(endpoint, partial(_handshake, endpoint), lambda: None), endpoint)
    return True, f"{endpoint} answers" + (", its certificate is good" if endpoint.tls else ", without TLS")


def _handshake(endpoint: Endpoint) -> None:
    with socket.create_connection((endpoint.host, endpoint.port), timeout=8) as plain:
        if endpoint.tls:
            endpoint.tls_context().wrap_socket(plain, server_hostname=endpoint.host).close()


async def _login(endpoint: Endpoint, refused: AgentError | None) -> tuple[bool, str]:
    if refused is not None:
        raise Failed(str(refused), pairing.advice(refused))
    version = await _link(pairing.check_login(endpoint), endpoint)
    return True, f"as {endpoint.username or 'nobody'}, MQTT {version}"


async def _topics(settings: Config, login: config.MqttSection) -> tuple[bool, str]:
    """All printers' topics, some at a time: over a slow line a farm takes longer than one check may."""
    free = asyncio.Semaphore(AT_ONCE)

    async def check(printer: PrinterConfig) -> str | Failed:
        endpoint, topics = _own(endpoint_for(login, printer.printer_id)), topics_for(settings, printer)
        async with free:
            try:
                async with asyncio.timeout(findings.STEP):
                    written = await _link(
                        pairing.check_rights(endpoint, topics, codec_for(settings, printer)), endpoint
                    )
            except TimeoutError:
                return Failed(
                    f"{printer.name}: no answer within {findings.STEP:.0f} s", "Check the network in between."
                )
            except Failed as failed:
                return failed
        return f"may read {topics.commands}, may write {written}"

    found = await asyncio.gather(*map(check, settings.printers))
    bad = [each for each in found if isinstance(each, Failed)]
    more = f", and the same for {len(bad or found) - 1} more" if len(bad or found) > 1 else ""
    if bad:
        raise Failed(f"{bad[0].saw}{more}", bad[0].todo)
    return True, f"{found[0]}{more}"


async def _link(attempt: Awaitable[T], endpoint: Endpoint) -> T:
    try:
        return await attempt
    except AgentError as error:
        raise Failed(str(error), pairing.advice(error, endpoint)) from error


def run(given: Path | None, *, json_wanted: bool, write: Callable[[str], object] = print) -> int:
    """Make all checks, write the findings, return the exit code."""
    checks = asyncio.run(examine(given))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
    text = as_json(checks) if json_wanted else as_text(checks, width)
    write(plain(text, sys.stdout.encoding))
    return exit_code(checks)
