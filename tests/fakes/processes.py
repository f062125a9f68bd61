"""Processes of the tests that must not outlive them, also when the test run itself is killed by SIGKILL."""

from __future__ import annotations

import shutil

import pytest


def ending_with_us(*command: str) -> list[str]:
    """The command that runs `command` under the same process ID, and has Linux kill it when we have gone."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.fail("setpriv is not installed: sudo apt-get install util-linux", pytrace=False)
    return [setpriv, "--pdeathsig", "KILL", "--", *command]
