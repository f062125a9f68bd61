"""A port that is handed out is nobody else's, in this process and in others."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from printago_moonraker.virtual import ports
from printago_moonraker.virtual.rig import PACKAGE_ROOT

CODE = "from printago_moonraker.virtual.ports import *; print(*[free_port() for _ in range(SIZE)])"


def test_each_is_another_and_nobody_elses() -> None:
    """No port twice until all were handed out, none of another process, none that a connection could be given."""
    own = {ports.free_port() for _ in range(ports.SIZE // 2)}
    assert len(own) == ports.SIZE // 2
    output = subprocess.run([sys.executable, "-c", CODE], cwd=PACKAGE_ROOT, check=True, capture_output=True, text=True)
    others = {int(word) for word in output.stdout.split()}
    assert len(others) > ports.SIZE // 2
    assert not own & others
    given_to_connections = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(own | others) < given_to_connections


def test_where_somebody_listens_is_not_free() -> None:
    """It is passed over."""
    following = ports.free_port() + 1
    with socket.socket() as taken:
        try:
            taken.bind((ports.ADDRESS, following))
        except OSError:
            pytest.skip("another program is there already")
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            ports.check(following)
        assert ports.free_port() != following
