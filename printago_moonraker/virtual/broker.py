"""An embedded MQTT broker for the demo: amqtt, on loopback, for everybody, in this process."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import TYPE_CHECKING

from printago_moonraker.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "127.0.0.1"
LOGGERS = ("amqtt", "transitions", "transitions.core")


@contextlib.asynccontextmanager
async def embedded_broker(port: int = 0) -> AsyncIterator[tuple[str, int]]:
    """Run a broker; yields host and port (0: a free one is taken).

    Raises AgentError when amqtt is not installed or cannot listen.
    """
    try:
        from amqtt.broker import Broker
        from amqtt.errors import AMQTTError, BrokerError
    except ImportError as error:
        raise AgentError('the demo needs its broker: pip install "printago-moonraker[demo]"') from error
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    port = port or _free_port()
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    try:
        await broker.start()
    except (AMQTTError, BrokerError) as error:
        raise AgentError(f"the broker cannot listen on {HOST}:{port}: {error}") from error
    try:
        yield HOST, port
    finally:
        await broker.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
