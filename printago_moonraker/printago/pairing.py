"""Whether the broker lets this host in, and what a person can do when it does not."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from printago_moonraker import __version__, program
from printago_moonraker.errors import ConfigError, ConnectionRefused, LoginRefused, NotPaired
from printago_moonraker.printago.mqtt import connect

if TYPE_CHECKING:
    from printago_moonraker.errors import AgentError
    from printago_moonraker.printago.endpoint import Endpoint, Message
    from printago_moonraker.printago.envelope import EnvelopeCodec, Topics

PROTOCOL: Final = 1
PATIENCE: Final = 1.0  # s until what the broker has kept of a topic has come; it comes with the subscription

# OpenSSL's X509_V_ERR_*, x509_vfy.h.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = {62, 64}
_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}


def outcome(result: str, reason: str | None = None) -> dict[str, Any]:
    """The data of a `pairing` envelope that says how pairing ended: paired, failed (with its reason), unpaired."""
    agent = {"name": "printago-moonraker", "version": __version__, "protocol": PROTOCOL}
    return {"outcome": result, **({"reason": reason} if reason else {}), "agent": agent}


async def check_login(endpoint: Endpoint) -> str:
    """Log in, and out again; the MQTT version that was agreed on. Raises what `mqtt.connect` raises."""
    async with connect(endpoint, subscriptions=(), on_message=_ignore) as session:
        return session.protocol


async def check_topics(
    endpoint: Endpoint, topics: Topics, codec: EnvelopeCodec, kind: str, data: dict[str, Any]
) -> None:
    """Subscribe to the commands, and publish an envelope. Raises what `mqtt.connect` and `publish` raise.

    A command that comes meanwhile is not acknowledged: the broker keeps it for the agent. With MQTT 3.1.1 a broker has
    no way to refuse a publication; only MQTT 5 shows whether there is the right to it.
    """
    async with connect(endpoint, subscriptions=[topics.commands], on_message=_ignore) as session:
        await session.publish(topics.message(kind), codec.encode(kind, data, at=datetime.now(UTC)))


async def check_rights(endpoint: Endpoint, topics: Topics, codec: EnvelopeCodec) -> str:
    """As `check_topics`, but nobody hears anything new: what the availability topic says is said again; where it says
    nothing that we may read, `paired`, as at each start of the agent. Returns the topic that was written to.
    """
    try:
        present = await _heard(endpoint, topics)
    except ConnectionRefused:
        present = None  # the agent only writes it, and may have no right to read it
    if present is None:
        await check_topics(endpoint, topics, codec, "pairing", outcome("paired"))
        return topics.message("pairing")
    async with connect(endpoint, subscriptions=[topics.commands], on_message=_ignore) as session:
        await session.publish(topics.availability, present, content_type=None)
    return topics.availability


async def _heard(endpoint: Endpoint, topics: Topics) -> bytes | None:
    """What the availability topic says; None when it says nothing."""
    present: asyncio.Queue[bytes] = asyncio.Queue()

    def hear(message: Message) -> None:
        if message.topic == topics.availability and message.retain and message.payload:
            present.put_nowait(message.payload)

    async with connect(endpoint, subscriptions=[topics.availability], on_message=hear):
        try:
            async with asyncio.timeout(PATIENCE):
                return await present.get()
        except TimeoutError:
            return None


async def publish(
    endpoint: Endpoint, topics: Topics, codec: EnvelopeCodec, data: dict[str, Any], *, availability: bytes | None = None
) -> None:
    """Publish one `pairing` envelope and, retained, what the availability is from now on. Raises as above."""
    async with connect(endpoint, subscriptions=(), on_message=_ignore) as session:
        await session.publish(topics.message("pairing"), codec.encode("pairing", data, at=datetime.now(UTC)))
        if availability is not None:
            await session.publish(topics.availability, availability, retain=True, content_type=None)


def advice(error: AgentError, endpoint: Endpoint | None = None) -> str:
    """What to do about an error of the link to the broker: a sentence or two for the owner of the printer."""
    cause = error.__cause__
    if isinstance(error, NotPaired):
        return f"Run {program.command('pair')}."
    if isinstance(error, ConfigError):
        return ""  # it says so itself
    if isinstance(error, LoginRefused):
        # The command comes first: a log line has room for two hundred characters.
        return (
            f"Run {program.command('pair')} again: the store ID or the API key is wrong, or the key was revoked; copy "
            "both anew from Printago (or correct [mqtt] username and password_file, if set)."
        )
    if isinstance(error, ConnectionRefused):
        return "The API key may not use this printer's topics: check its rights at Printago, and printer_id here."
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _certificate_advice(cause)
    if isinstance(cause, socket.gaierror):
        return "Check this host's network and name server, and host in [mqtt]."
    if isinstance(cause, ssl.SSLError):
        return "Check port and tls in [mqtt]: the port must be the one for TLS."
    if isinstance(cause, ConnectionRefusedError):
        return "Nothing listens there, or a firewall says no: check host and port in [mqtt]."
    port = f"TCP port {endpoint.port}" if endpoint else "the broker's port"
    return f"Check this host's network, and that the firewall or router lets {port} out."


def _certificate_advice(error: ssl.SSLCertVerificationError) -> str:
    now = datetime.now(UTC).isoformat(timespec="minutes").replace("+00:00", "Z")
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        return (
            f"This host's clock says {now}. If that is wrong, set it (timedatectl); if it is right, the certificate of "
            "the broker is out of date, and whoever runs the broker has to renew it."
        )
    if error.verify_code in _OTHER_NAME:
        return "host in [mqtt] must be the name in the certificate; or else something between is not the broker."
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return (
            "Set ca_file in [mqtt] for a broker with an authority of its own; for Printago's, update the package "
            "ca-certificates, and look for a proxy that opens TLS."
        )
    return "Check host and ca_file in [mqtt]."


def _ignore(_message: Message) -> None:
    """Not acknowledged, so that the broker keeps it."""
