"""A real broker, and what most tests of this edge need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker import supervise
from printago_moonraker.backoff import Backoff
from printago_moonraker.printago.mqtt import Endpoint
from tests.fakes.mosquitto import Mosquitto, mosquitto

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def endpoint(broker: Mosquitto) -> Callable[..., Endpoint]:
    """Makes endpoints at the broker: `endpoint("client-id", protocol="5")`."""

    def make(client_id: str, **options: Any) -> Endpoint:
        return Endpoint("127.0.0.1", broker.port, client_id, tls=False, **options)

    return make


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off without the long waits."""
    monkeypatch.setattr(supervise, "Backoff", lambda: Backoff(base=0.05, cap=0.1, floor=0.05))
