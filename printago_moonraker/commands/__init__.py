"""The commands. Importing this package declares all of them."""

from printago_moonraker.commands import movement_control, printer_control, temperature_control

__all__ = ["movement_control", "printer_control", "temperature_control"]
