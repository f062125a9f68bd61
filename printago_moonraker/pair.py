"""Links this host to a Printago account, and takes it away again: with a key, or with a code for the browser."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from printago_moonraker import config_file, credentials, web
from printago_moonraker.backoff import Backoff
from printago_moonraker.errors import (
    AgentError,
    ConfigError,
    ConnectionLost,
    ConnectionRefused,
    LinkError,
    LoginRefused,
    PrinterNotReady,
    PrinterOffline,
)
from printago_moonraker.log import printable
from printago_moonraker.moonraker.api import Moonraker
from printago_moonraker.moonraker.connection import connect
from printago_moonraker.moonraker.rpc import RpcError
from printago_moonraker.printago import pairing
from printago_moonraker.printago.device import CodeExpired, DeviceCode, DeviceFlow, PairingFailed
from printago_moonraker.printago.endpoint import endpoint_for
from printago_moonraker.printago.envelope import Dialect, EnvelopeCodec, topics_for
from printago_moonraker.printer import gcode

if TYPE_CHECKING:
    from pathlib import Path

    from printago_moonraker.config import Config, MqttSection, PrinterConfig
    from printago_moonraker.credentials import Credentials

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 4  # the agent, if it runs with the same key, takes the connection back within a second
RETRY: Final = 0.5  # s
QUICK: Final = 3.0  # s; the agent that takes the connection back does so within that
LOOK: Final = 5.0  # s between two looks whether this host is paired
SHOW_AGAIN: Final = 5.0  # s between two attempts to show a code at a printer that is not ready
PROMPT_TIMEOUT: Final = 5.0  # s; behind a long line of G-code the prompt comes when that has ended

Write = Callable[[str], object]


def check_place(config: Config, given: Path | None) -> None:
    """Whether the credentials would get where this host's agent looks for them: raises AgentError when it is known that
    they would not. `given`: the file that was named.
    """
    there = config.path.exists()
    others = [] if there or given is not None else config_file.instances()
    if others:
        raise AgentError(
            f"There is no {config.path}, and this host has {', '.join(map(str, others))}: run install.sh first, or "
            "name the configuration of the agent with -c."
        )
    owner = credentials.other_owner(config.printago.data_path)
    if owner is None and os.geteuid() == 0 and not there:  # root's own home folder is not the agent's
        owner = os.environ.get("SUDO_USER", "root")
    if owner not in (None, "root"):
        raise AgentError(f"Run it as {owner}, without sudo: an agent of {owner} cannot read what root writes.")


async def pair(config: Config, found: Credentials, write: Write) -> int:
    """Check the credentials at the broker, for each printer; store them when all is well. Printago is told how it ended
    wherever the broker lets us say it. Returns the exit code. Raises ConfigError when they cannot be stored.
    """
    if config.mqtt.username is not None:
        write("The configuration has a login of its own, [mqtt] username: delete that line, or change it there.")
        return 1
    mqtt = replace(config.mqtt, username=found.store_id, password=found.api_key)
    write(f"Checking the login at {mqtt.host}:{mqtt.port} ...")
    try:
        # Room for them first: what Printago has heard as `paired` must be true.
        with credentials.staged(config.printago.data_path, found) as put:
            if not await _check_all(config, mqtt, write):
                return 1
            file = put()
    except ConfigError as error:
        await _say(config, mqtt, pairing.outcome("failed", _sentence(error)))
        raise
    write(f"Paired with {mqtt.host}. The credentials are in {file}; an agent that runs uses them within seconds.")
    return 0


async def _check_all(config: Config, mqtt: MqttSection, write: Write) -> bool:
    """Whether every printer is let in. When not, Printago hears of it, unless the broker has let nobody in."""
    for number, printer in enumerate(config.printers):
        try:
            await _check(config, mqtt, printer)
        except LinkError as error:
            todo = pairing.advice(error, endpoint_for(mqtt, printer.printer_id))
            write(f"Not paired: {_sentence(error)} {todo}")
            about_a_topic = isinstance(error, ConnectionRefused) and not isinstance(error, LoginRefused)
            if number or about_a_topic:
                await _say(config, mqtt, pairing.outcome("failed", _sentence(error)))
            return False
        write(f"{printer.name}: the broker lets it in, and takes its messages.")
    return True


async def unpair(config: Config, write: Write) -> int:
    """Forget the credentials, and tell Printago as far as it listens. Returns the exit code. Raises ConfigError."""
    if config.mqtt.username is not None:
        credentials.forget(config.printago.data_path)
        write(
            "The configuration has a login of its own, [mqtt] username, and with that the agent stays logged in: "
            f"delete username and password_file in {config.path}, and restart the agent."
        )
        return 1
    mqtt = None
    try:
        mqtt = config.login()
    except AgentError as error:
        logger.debug("nothing to say goodbye with: %s", error)
    if not credentials.forget(config.printago.data_path):
        write("This host is not paired.")
        return 0
    # Forgotten first: an agent that runs does not come back now, and say that it is paired.
    if mqtt is not None and not await _say(config, mqtt, pairing.outcome("unpaired"), availability=b"disconnected"):
        write("Printago could not be told.")
    write("Unpaired: the credentials are deleted here. To make the key useless elsewhere, revoke it at Printago.")
    return 0


async def pair_by_code(config: Config, write: Write) -> int:
    """Show a code until its owner has entered it in the browser, then go on as `pair` does. A code that expires is
    renewed. Returns the exit code. Raises PairingFailed, ConfigError. Cancelling is safe.
    """
    found = await _obtain(config, write)
    return await pair(config, found, write)


async def keep_paired(config: Config, backoff: Backoff) -> None:
    """Whenever this host is not paired, ask for a code and show it: in the log and at the printers. For `run`, where
    the configuration names a server for that. Never returns; raises PairingFailed, LinkError, ConfigError.
    """
    while True:
        if config.mqtt.username is None and credentials.read(config.printago.data_path) is None:
            code = await pair_by_code(config, partial(logger.warning, "%s"))
            if code:
                raise PairingFailed("the pairing did not succeed.")
            backoff.reset()
        await asyncio.sleep(LOOK)


async def _obtain(config: Config, write: Write) -> Credentials:
    flow, backoff = DeviceFlow(config.printago, config.mqtt.username), Backoff()
    while True:
        try:
            code = await flow.request_code()
        except web.Broken as error:
            if not backoff.failures:
                write(f"The pairing server cannot be reached: {error}. Trying again.")
            await asyncio.sleep(backoff.next())
            continue
        backoff.reset()
        minutes = max(1, round(code.expires_in / 60))
        write(f"To pair, open {code.verification_uri} and enter {code.user_code} within {minutes} min.")
        prompt = _prompt(code)
        showing = asyncio.create_task(_show_again(await _show(config.printers, prompt), prompt))
        try:
            return await flow.wait(code)
        except CodeExpired:
            write("Nobody has entered the code; here is another one.")
        finally:
            showing.cancel()
            await asyncio.wait([showing])
            await _show(config.printers, gcode.PROMPT_END)


def _prompt(code: DeviceCode) -> str:
    return gcode.prompt("Pair with Printago", [f"Open {code.verification_uri}", f"and enter {code.user_code}"])


async def _show_again(printers: Sequence[PrinterConfig], script: str) -> None:
    """Until each has taken it: a printer that is only starting has it a little later. Cancelling is safe."""
    while printers:
        await asyncio.sleep(SHOW_AGAIN)
        printers = await _show(printers, script)


async def _show(printers: Sequence[PrinterConfig], script: str) -> Sequence[PrinterConfig]:
    """Run the script at every printer; those that are worth another attempt later."""
    later = await asyncio.gather(*(_run(printer, script) for printer in printers))
    return [printer for printer, again in zip(printers, later, strict=True) if again]


async def _run(printer: PrinterConfig, script: str) -> bool:
    """Run the script; whether the printer was not there, or not ready, and may be so later."""
    try:
        async with (
            asyncio.timeout(2 * PROMPT_TIMEOUT),
            connect(
                printer.moonraker_url,
                api_key=printer.moonraker_api_key,
                on_notification=lambda *_: None,
                open_timeout=PROMPT_TIMEOUT,
                ca_file=printer.moonraker_ca_file,
            ) as connection,
        ):
            await Moonraker(connection).gcode_script(script, PROMPT_TIMEOUT)
    except (AgentError, TimeoutError) as error:
        logger.debug("%s: shows no code: %s", printer.name, error)
        if isinstance(error, RpcError):
            return isinstance(gcode.refusal(error), PrinterNotReady | PrinterOffline)
        # After a timeout Klipper has the script, and comes to it after what it does now: twice would be too much.
        return isinstance(error, LinkError) and not isinstance(error, ConnectionRefused)
    return False


async def _check(config: Config, mqtt: MqttSection, printer: PrinterConfig) -> None:
    """One printer's login and its topics: as the agent itself will come, so that nothing is different then."""
    endpoint, topics = endpoint_for(mqtt, printer.printer_id), topics_for(config, printer)
    codec, now = codec_for(config, printer), asyncio.get_running_loop().time
    for left in reversed(range(ATTEMPTS)):
        begun = now()
        try:
            await pairing.check_topics(endpoint, topics, codec, "pairing", pairing.outcome("paired"))
            break
        except ConnectionLost:
            # A broker that has been silent for so long will be silent again.
            if not left or now() - begun > QUICK:
                raise
        await asyncio.sleep(RETRY)


async def _say(config: Config, mqtt: MqttSection, data: dict[str, object], availability: bytes | None = None) -> bool:
    """Tell Printago, for each printer; whether it could be told."""
    try:
        for printer in config.printers:
            endpoint = replace(endpoint_for(mqtt, printer.printer_id), session_expiry=0)  # leaves no session behind
            codec = codec_for(config, printer)
            await pairing.publish(endpoint, topics_for(config, printer), codec, data, availability=availability)
    except LinkError as error:
        logger.debug("Printago is not told: %s", error)
        return False
    return True


def codec_for(config: Config, printer: PrinterConfig) -> EnvelopeCodec:
    """What one printer's envelopes are made with."""
    return EnvelopeCodec(printer.printer_id, config.printago.client_type, Dialect(config.printago.dialect))


def _sentence(error: AgentError) -> str:
    return printable(str(error), 400).rstrip(".") + "."
