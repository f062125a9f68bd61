"""What Moonraker's history says of a print: decisions only, no I/O.

Source: Moonraker docs, "Get job list"; the statuses are listed in docs/klipper.md.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from printago_moonraker.printer.names import same_file

SAME_CLOCK = 2.0  # seconds: Moonraker runs on the same host as a rule

Entries = list[dict[str, Any]]  # the newest first


def is_of(job: dict[str, Any], filename: str) -> bool:
    """Whether the entry is of a print of that file."""
    return same_file(str(job.get("filename", "")), filename)


def newer(jobs: Entries, entry: str | None, since: float) -> Entries:
    """The entries that came after `entry`; by their start, after `since` (unix time), where that is not among them."""
    if entry is not None and any(job.get("job_id") == entry for job in jobs):
        return list(takewhile(lambda job: job.get("job_id") != entry, jobs))
    return [job for job in jobs if (job.get("start_time") or 0.0) >= since - SAME_CLOCK]


def status(jobs: Entries, filename: str, *, again: bool = False, entry: str | None = None) -> str | None:
    """How the newest print of that file ended (`completed`, `cancelled`, `klippy_shutdown`, ...); None when there is
    none that has.

    `again`: the file is being printed anew, and the entry of that print is not the one. `entry`: the print's own, where
    it is known.
    """
    found = [job for job in jobs if is_of(job, filename)]
    own = [job for job in found if entry is not None and job.get("job_id") == entry]
    if own:
        found, again = own, False
    ends = [str(job.get("status")) for job in found]
    if again and ends[:1] == ["in_progress"]:
        ends.pop(0)
    return ends[0] if ends and ends[0] != "in_progress" else None
