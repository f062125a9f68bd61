"""The commands. Importing this package declares all of them."""

from printago_moonraker.commands import (
    camera_control,
    fan_control,
    light_control,
    movement_control,
    printer_control,
    temperature_control,
)

__all__ = [
    "camera_control",
    "fan_control",
    "light_control",
    "movement_control",
    "printer_control",
    "temperature_control",
]
