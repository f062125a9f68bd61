"""The embedded broker."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from printago_moonraker.errors import AgentError
from printago_moonraker.virtual.broker import embedded_broker


async def test_a_message_goes_through() -> None:
    """Anybody may connect, publish and subscribe."""
    loop, got = asyncio.get_running_loop(), asyncio.Event()
    async with embedded_broker() as (host, port):
        client = mqtt.Client(CallbackAPIVersion.VERSION2)

        def connected(*_: Any) -> None:
            client.subscribe("topic", qos=1)

        def subscribed(*_: Any) -> None:
            client.publish("topic", "text", qos=1)

        def heard(*_: Any) -> None:
            loop.call_soon_threadsafe(got.set)

        client.on_connect, client.on_subscribe, client.on_message = connected, subscribed, heard
        client.connect_async(host, port)
        client.loop_start()
        try:
            async with asyncio.timeout(5):
                await got.wait()
        finally:
            await asyncio.to_thread(client.disconnect)
            await asyncio.to_thread(client.loop_stop)


async def test_port_in_use() -> None:
    """A port that somebody has is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AgentError, match=f"the broker cannot listen on 127.0.0.1:{port}"):
            async with embedded_broker(port):
                pass


async def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, one sentence says what to install."""
    monkeypatch.setitem(sys.modules, "amqtt.broker", None)
    with pytest.raises(AgentError, match=r"pip install \"printago-moonraker\[demo\]\""):
        async with embedded_broker():
            pass
