"""What `pairing` tells Printago about the agent and its printer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from printago_moonraker.commands.registry import names
from printago_moonraker.printago.pairing import outcome
from printago_moonraker.printer import outputs

if TYPE_CHECKING:
    from printago_moonraker.printer.printer import Printer


def pairing(printer: Printer) -> dict[str, Any]:
    """The data of a `pairing` envelope with outcome `paired`. What Klipper has not said yet is null or empty."""
    facts = printer.facts
    heaters = [*facts.tools, *filter(None, (facts.bed, facts.chamber)), *facts.heaters]
    return {
        **outcome("paired"),
        "printer": {
            "name": printer.config.name,
            **printer.versions,
            "kinematics": facts.kinematics,
            "build_volume": facts.build_volume(),
            "nozzle_diameters": list(facts.nozzle_diameters),
            "heaters": [heater.describe() for heater in heaters],
            "fans": [fan.describe_fan() for fan in outputs.fans(facts)],
            "lights": [light.describe_light() for light in outputs.lights(facts)],
            "webcams": [webcam.describe() for webcam in printer.webcams],
            "commands": names(printer),
        },
    }
