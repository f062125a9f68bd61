"""One agent a data folder: two would answer each other's commands, and write over each other's memory."""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from printago_moonraker.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder for as long as the block runs, or until the process is gone. Raises AgentError: another has it.

    It is the folder itself that is locked (flock(2)): that needs no room on the disk and no right to write to it. Where
    a folder cannot be made or locked, a network's file system perhaps, the agent runs all the same.
    """
    fd = -1
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise AgentError(
            f"Another agent runs with the data_path {folder}, the service perhaps: stop that one first "
            "(sudo systemctl stop printago-moonraker), or give this one a data_path of its own."
        ) from error
    except OSError as error:
        logger.debug("%s cannot be locked: %s", folder, error)
    try:
        yield
    finally:
        if fd >= 0:
            os.close(fd)
