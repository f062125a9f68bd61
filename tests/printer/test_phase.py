"""The phase is a total function of what is known."""

from __future__ import annotations

from itertools import product

import pytest

from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.printer.phase import Phase, phase_of
from printago_moonraker.printer.state import JobState

OWN = (None, Phase.STARTING, Phase.PAUSING, Phase.RESUMING, Phase.CANCELLING)


def test_every_combination_has_a_phase() -> None:
    """Nothing that Klipper, Moonraker and the agent can show together is without a phase."""
    for moonraker, klippy, job, own, progress in product((True, False), KlippyState, JobState, OWN, (0.0, 0.5, 1.0)):
        phase = phase_of(moonraker=moonraker, klippy=klippy, job=job, under_way=own, progress=progress)
        assert isinstance(phase, Phase)
        assert phase.operational is (moonraker and klippy is KlippyState.READY)
        assert not phase.has_job or phase.operational


@pytest.mark.parametrize(
    ("klippy", "phase"),
    [
        (KlippyState.STARTUP, Phase.CONNECTING),
        (KlippyState.SHUTDOWN, Phase.ERROR),
        (KlippyState.ERROR, Phase.CLOSED_WITH_ERROR),
        (KlippyState.DISCONNECTED, Phase.OFFLINE),
        (KlippyState.UNKNOWN, Phase.CONNECTING),
    ],
)
def test_klippers_state_comes_first(klippy: KlippyState, phase: Phase) -> None:
    """In a shutdown `print_stats` says "paused" of a print that can never be resumed."""
    for job, own in product(JobState, OWN):
        assert phase_of(moonraker=True, klippy=klippy, job=job, under_way=own, progress=0.5) is phase


@pytest.mark.parametrize(
    ("job", "own", "progress", "phase"),
    [
        (JobState.STANDBY, None, 0.0, Phase.OPERATIONAL),
        (JobState.COMPLETE, None, 1.0, Phase.OPERATIONAL),
        (JobState.CANCELLED, None, 0.0, Phase.OPERATIONAL),
        (JobState.ERROR, None, 0.3, Phase.OPERATIONAL),
        (JobState.PRINTING, None, 0.99, Phase.PRINTING),
        (JobState.PRINTING, None, 1.0, Phase.FINISHING),
        (JobState.PAUSED, None, 0.5, Phase.PAUSED),
        (JobState.STANDBY, Phase.STARTING, 0.0, Phase.STARTING),
        (JobState.COMPLETE, Phase.STARTING, 1.0, Phase.STARTING),
        (JobState.PRINTING, Phase.STARTING, 0.0, Phase.PRINTING),
        (JobState.PRINTING, Phase.PAUSING, 0.5, Phase.PAUSING),
        (JobState.PAUSED, Phase.PAUSING, 0.5, Phase.PAUSED),
        (JobState.COMPLETE, Phase.PAUSING, 1.0, Phase.OPERATIONAL),
        (JobState.PAUSED, Phase.RESUMING, 0.5, Phase.RESUMING),
        (JobState.PRINTING, Phase.RESUMING, 0.5, Phase.PRINTING),
        (JobState.PRINTING, Phase.CANCELLING, 0.5, Phase.CANCELLING),
        (JobState.PAUSED, Phase.CANCELLING, 0.5, Phase.CANCELLING),
        (JobState.CANCELLED, Phase.CANCELLING, 0.0, Phase.OPERATIONAL),
    ],
)
def test_a_job_and_what_the_agent_does_with_it(job: JobState, own: Phase | None, progress: float, phase: Phase) -> None:
    """The agent's own operation shows until Klipper shows its end."""
    assert phase_of(moonraker=True, klippy=KlippyState.READY, job=job, under_way=own, progress=progress) is phase


def test_without_moonraker_everything_is_offline() -> None:
    """What was known before the link broke is not shown."""
    for klippy, job in product(KlippyState, JobState):
        assert phase_of(moonraker=False, klippy=klippy, job=job, under_way=None, progress=0.0) is Phase.OFFLINE
