"""Plays the cloud, for `printago-moonraker send`, the demo and the tests: commands in, envelopes out."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import uuid
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from printago_moonraker.errors import AgentError
from printago_moonraker.printago.endpoint import endpoint_for
from printago_moonraker.printago.envelope import topics_for
from printago_moonraker.printago.mqtt import Endpoint, Message, MqttSession, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from printago_moonraker.config import Config, PrinterConfig
    from printago_moonraker.printago.envelope import Topics

Envelope = dict[str, Any]
ANSWERS = frozenset({"success", "error", "response", "status"})


class Cloud:
    """One printer's counterpart; a context manager, which raises what `mqtt.connect` raises.

    `envelopes` are all that came, in order; `availability` is what its topic said last; `frames` holds the newest
    picture by topic.
    """

    def __init__(self, endpoint: Endpoint, topics: Topics) -> None:
        name = f"{endpoint.client_id}-cloud-{secrets.token_hex(4)}"  # with the agent's own ID, we would throw it out
        self._endpoint = replace(endpoint, client_id=name, session_expiry=0)
        self._topics = topics
        self._stack = AsyncExitStack()
        self._session: MqttSession | None = None
        self._lost: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.envelopes: list[Envelope] = []
        self.availability: str | None = None
        self.frames: dict[str, bytes] = {}

    async def __aenter__(self) -> Self:
        topics = self._topics
        templates = (topics.messages, topics.availability, topics.camera)
        wanted = dict.fromkeys(re.sub(r"[^/]*\{(type|camera_name)\}[^/]*", "+", template) for template in templates)
        self._session = await self._stack.enter_async_context(
            connect(self._endpoint, subscriptions=list(wanted), on_message=self._on_message)
        )
        self._lost = asyncio.create_task(self._session.wait_closed())
        self._lost.add_done_callback(lambda _: self._news.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._lost is not None
        self._lost.cancel()
        await asyncio.wait([self._lost])
        if not self._lost.cancelled():
            self._lost.exception()  # seen
        await self._stack.aclose()

    def events(self) -> list[dict[str, Any]]:
        """The data of each `event` envelope so far."""
        return [envelope["data"] for envelope in self.envelopes if envelope["type"] == "event"]

    async def send_raw(self, payload: bytes, *, retain: bool = False) -> None:
        """Put any bytes on the command topic; returns when the broker has them."""
        assert self._session is not None, "use it as a context manager"
        await self._session.publish(self._topics.commands, payload, retain=retain)

    async def command(
        self,
        kind: str,
        action: str,
        parameters: dict[str, Any] | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the member's name
        timeout: float = 60.0,
        **members: Any,
    ) -> Envelope:
        """Send a command, `members` beside its own; the envelope that answers it.

        Raises TimeoutError after `timeout` s, ConnectionLost. Cancelling is safe; the command stays sent.
        """
        id = id or str(uuid.uuid4())  # noqa: A001
        start = len(self.envelopes)
        command = {"type": kind, "action": action, "parameters": parameters or {}, "id": id, **members}
        await self.send_raw(json.dumps(command).encode())
        return await self.wait_for(
            lambda envelope: envelope["type"] in ANSWERS and envelope.get("command", {}).get("id") == id,
            timeout,
            start=start,
        )

    async def wait_for(
        self, predicate: Callable[[Envelope], object], timeout: float = 10.0, *, start: int = 0
    ) -> Envelope:
        """The first envelope, from number `start` on, for which `predicate` holds. Raises as `command` does."""
        position = start
        async with asyncio.timeout(timeout):
            while True:
                while position < len(self.envelopes):
                    position += 1
                    if predicate(self.envelopes[position - 1]):
                        return self.envelopes[position - 1]
                await self._next()

    async def wait_available(self, text: str, timeout: float = 10.0) -> None:
        """Until the availability topic says `text`."""
        async with asyncio.timeout(timeout):
            while self.availability != text:
                await self._next()

    async def _next(self) -> None:
        self._news.clear()
        assert self._lost is not None, "use it as a context manager"
        if self._lost.done():
            self._lost.result()
        await self._news.wait()

    def _on_message(self, message: Message) -> None:
        message.ack()
        if message.topic == self._topics.commands:
            return  # the wildcard covers it
        if message.topic == self._topics.availability:
            self.availability = message.payload.decode("utf-8", "replace")
        elif message.payload[:1] == b"{":
            self.envelopes.append(json.loads(message.payload))
        else:
            self.frames[message.topic] = message.payload
        self._news.set()


async def send_command(
    config: Config,
    printer_name: str | None,
    command: str,
    arguments: Sequence[str],
    *,
    write: Callable[[str], object],
    timeout: float = 60.0,
) -> int:
    """Send `TYPE.ACTION` with `name=value` arguments to a printer (None: the only one) and write its answer as JSON.

    Returns the exit code: 0 for an answer that is no error, 1 for an error, none within `timeout` s, or no broker,
    2 for wrong usage. Raises ConfigError.
    """
    try:
        printer = _choose(config, printer_name)
        kind, action = _split(command, ".", "TYPE.ACTION")
        parameters = parse_arguments(arguments)
    except ValueError as error:
        write(f"printago-moonraker send: {error}")
        return 2
    try:
        async with Cloud(endpoint_for(config.login(), printer.printer_id), topics_for(config, printer)) as cloud:
            answer = await cloud.command(kind, action, parameters, timeout=timeout)
    except TimeoutError:
        write(f"printago-moonraker send: no answer from {printer.name} within {timeout:g} s; is the agent running?")
        return 1
    except AgentError as error:
        write(f"printago-moonraker send: {error}")
        return 1
    write(json.dumps(answer, indent=2, ensure_ascii=False))
    return 1 if answer["type"] == "error" else 0


def parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """`name=value` pairs as parameters: a value is JSON if it can be, else a string; `axes.x=10` makes an object.

    Raises ValueError.
    """
    parameters: dict[str, Any] = {}
    for argument in arguments:
        name, value = _split(argument, "=", "name=value")
        *parents, last = name.split(".")
        place = parameters
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"{argument}: {parent} has a value already.")  # noqa: TRY004 - what a person typed
        try:
            place[last] = json.loads(value)
        except ValueError:
            place[last] = value
    return parameters


def _split(text: str, separator: str, form: str) -> tuple[str, str]:
    left, found, right = text.partition(separator)
    if not (left and found) or (separator == "." and not right):
        raise ValueError(f"{text!r} is not of the form {form}.")
    return left, right


def _choose(config: Config, name: str | None) -> PrinterConfig:
    known = ", ".join(printer.name for printer in config.printers)
    if name is None and len(config.printers) > 1:
        raise ValueError(f"which printer? --printer is one of: {known}")
    for printer in config.printers:
        if name in (None, printer.name, printer.printer_id):
            return printer
    raise ValueError(f"no printer {name!r} in the configuration; there are: {known}")
