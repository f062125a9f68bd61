"""The stand-in for the cloud, and `send`, before a real broker."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker import config as config_module
from printago_moonraker.cloud import Cloud, parse_arguments, send_command
from printago_moonraker.errors import ConnectionLost
from printago_moonraker.printago.endpoint import endpoint_for
from printago_moonraker.printago.envelope import Dialect, EnvelopeCodec, echo_of, topics_for
from printago_moonraker.printago.link import Link
from printago_moonraker.printago.login import login_for
from printago_moonraker.printago.store import Store
from tests.fakes.mosquitto import free_port, mosquitto

if TYPE_CHECKING:
    from pathlib import Path

    from printago_moonraker.config import Config
    from printago_moonraker.printago.mqtt import Message


def make_config(folder: Path, port: int, extra: str = "[printer voron]\n", dialect: str = "klipper") -> Config:
    path = folder / "printago.cfg"
    path.write_text(
        f"[printago]\ndialect: {dialect}\ndata_path: {folder}\n[mqtt]\nhost: 127.0.0.1\nport: {port}\ntls: off\n{extra}"
    )
    return config_module.load(path)


async def answering(config: Config, kind: str, data: dict[str, Any]) -> None:
    """An agent that answers every command in one way."""
    printer = config.printers[0]
    dialect = Dialect(config.printago.dialect)

    def on_command(message: Message) -> None:
        message.ack()
        link.send(kind, data | {"got": json.loads(message.payload)["parameters"]}, command=echo_of(message.payload))

    async with Store(None, trusted_time=lambda: None) as store:
        link = Link(
            login_for(config, printer.printer_id),
            topics_for(config, printer),
            EnvelopeCodec(printer.printer_id, dialect.value, dialect),
            store.of(printer.printer_id),
            on_command=on_command,
            on_up=lambda: None,
            name="agent",
        )
        await link.run()


@pytest.mark.parametrize("dialect", ["klipper", "octoprint"])
@pytest.mark.parametrize(("kind", "code"), [("success", 0), ("status", 0), ("response", 0), ("error", 1)])
async def test_send_prints_the_answer_and_its_exit_code(tmp_path: Path, dialect: str, kind: str, code: int) -> None:
    """Every terminal answer is written as JSON; only an error is a failure."""
    written: list[str] = []
    async with mosquitto(tmp_path) as broker:
        config = make_config(tmp_path, broker.port, dialect=dialect)
        agent = asyncio.create_task(answering(config, kind, {"message": "m"}))
        async with Cloud(endpoint_for(config.mqtt, "voron"), topics_for(config, config.printers[0])) as cloud:
            await cloud.wait_available("connected")
        result = await send_command(
            config, None, "movement_control.jog", ["axes.x=10", "tags=[]", "note=ü"], write=written.append, timeout=5
        )
        agent.cancel()
        await asyncio.gather(agent, return_exceptions=True)
    assert result == code
    answer = json.loads(written[0])
    assert answer["type"] == kind
    assert answer["command"] | {"id": "x"} == {"type": "movement_control", "action": "jog", "id": "x"}
    if kind == "success" and dialect == "octoprint":
        assert answer["data"] == "m"
    else:
        assert answer["data"]["got"] == {"axes": {"x": 10}, "tags": [], "note": "ü"}


async def test_send_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    """No broker and no answer are 1, wrong usage is 2, each one line."""
    written: list[str] = []

    async def send(config: Config, printer: str | None, command: str, *arguments: str) -> int:
        return await send_command(config, printer, command, arguments, write=written.append, timeout=0.2)

    config = make_config(tmp_path, free_port())
    assert await send(config, None, "a.b") == 1
    async with mosquitto(tmp_path) as broker:
        assert await send(make_config(tmp_path, broker.port), None, "a.b") == 1
    assert await send(config, None, "nonsense") == 2
    assert await send(config, None, "a.b", "novalue") == 2
    assert await send(config, "other", "a.b") == 2
    two = make_config(tmp_path, 1, "[printer a]\n[printer b]\nmoonraker_url: http://127.0.0.1:7126\n")
    assert await send(two, None, "a.b") == 2
    wanted = ("not reachable", "no answer from voron", "TYPE.ACTION", "name=value", "no printer 'other'", "a, b")
    assert [part in line for part, line in zip(wanted, written, strict=True)] == [True] * 6
    assert not any("\n" in line for line in written)


def test_arguments_become_parameters() -> None:
    """JSON where it parses, else a string; dots make objects; a value is not an object."""
    assert parse_arguments(["a=1", "b=true", "c=x=y", "d=", "e.x=1.5", "e.y=null", 'f=["z"]']) == {
        "a": 1, "b": True, "c": "x=y", "d": "", "e": {"x": 1.5, "y": None}, "f": ["z"],
    }  # fmt: skip
    with pytest.raises(ValueError, match="has a value already"):
        parse_arguments(["a=1", "a.b=2"])


async def test_a_lost_broker_ends_the_waiting(tmp_path: Path) -> None:
    """Who waits for an envelope hears at once that none will come."""
    async with mosquitto(tmp_path) as broker:
        config = make_config(tmp_path, broker.port)
        async with Cloud(endpoint_for(config.mqtt, "voron"), topics_for(config, config.printers[0])) as cloud:
            waiting = asyncio.create_task(cloud.wait_for(lambda envelope: True, 5))
            await broker.stop(kill=True)
            with pytest.raises(ConnectionLost):
                await waiting


async def test_waiting_is_bounded(tmp_path: Path) -> None:
    """No envelope in time is a TimeoutError."""
    async with mosquitto(tmp_path) as broker:
        config = make_config(tmp_path, broker.port)
        async with Cloud(endpoint_for(config.mqtt, "voron"), topics_for(config, config.printers[0])) as cloud:
            with pytest.raises(TimeoutError):
                await cloud.command("a", "b", timeout=0.1)
