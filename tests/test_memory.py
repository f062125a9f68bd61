"""The process stays small."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from printago_moonraker import memory

REAL = ctypes.CDLL


def test_glibc_takes_what_it_is_told() -> None:
    """Every number is one that mallopt(3) knows: it answers 1."""
    answers: list[int] = []

    class Library:
        """Notes what the real one answers."""

        def __init__(self, name: None) -> None:
            self._real: Any = REAL(name)

        def mallopt(self, parameter: int, value: int) -> int:
            answers.append(int(self._real.mallopt(parameter, value)))
            return answers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("printago_moonraker.memory.ctypes.CDLL", Library)
        memory.stay_small()
    assert answers == [1, 1, 1]


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl has no mallopt."""
    monkeypatch.setattr("printago_moonraker.memory.ctypes.CDLL", lambda _: object())
    memory.stay_small()
