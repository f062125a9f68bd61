"""What takes long is made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.install.host import make_environment

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("made-once"))
