"""The virtual printer's `configfile`: a cartesian one of 235 x 235 x 250 mm, as Klipper reports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

EXTRAS = ("heater_generic chamber", "neopixel case", "fan_generic filter", "extruder1")
LIMITS = {"x": (0.0, 235.0), "y": (0.0, 235.0), "z": (-2.0, 250.0)}
HOMING_SPEED = {"x": 50.0, "y": 50.0, "z": 10.0}
RETRACT = 10.0  # mm, homing_retract_dist
TRAVEL_MARGIN = 1.5  # a homing move aims at one and a half times the axis


def printer_settings(gcodes: Path, extras: frozenset[str], on_error_gcode: str = "") -> dict[str, dict[str, Any]]:
    """`configfile.settings`: section -> option -> value with its type. Units are Klipper's (mm, mm/s, °C)."""
    settings: dict[str, dict[str, Any]] = {
        "mcu": {"serial": "/tmp/virtual_mcu", "restart_method": "command", "max_stepper_error": 2.5e-05},  # noqa: S108 - a name in a report
        "printer": {
            "kinematics": "cartesian",
            "max_velocity": 300.0,
            "max_accel": 3000.0,
            "max_z_velocity": 15.0,
            "max_z_accel": 100.0,
            "minimum_cruise_ratio": 0.5,
            "square_corner_velocity": 5.0,
        },
        **{f"stepper_{axis}": _stepper(axis) for axis in LIMITS},
        "extruder": _extruder(),
        "heater_bed": _heater(130.0) | {"max_power": 1.0},
        "verify_heater extruder": {"max_error": 120.0, "check_gain_time": 20.0, "hysteresis": 5.0, "heating_gain": 2.0},
        "temperature_sensor chamber": {
            "sensor_type": "Generic 3950",
            "sensor_pin": "PF5",
            "min_temp": 0.0,
            "max_temp": 100.0,
        },
        "fan": {"pin": "PA8", "max_power": 1.0, "off_below": 0.0, "kick_start_time": 0.1},
        "heater_fan hotend_fan": {"pin": "PE5", "heater": ["extruder"], "heater_temp": 50.0, "fan_speed": 1.0},
        "output_pin caselight": {"pin": "PB5", "pwm": True, "value": 0.0, "shutdown_value": 0.0, "scale": 1.0},
        "filament_switch_sensor runout": {
            "switch_pin": "PC15",
            "pause_on_runout": True,
            "event_delay": 3.0,
            "pause_delay": 0.5,
        },
        "virtual_sdcard": {"path": str(gcodes), "on_error_gcode": on_error_gcode},
        "pause_resume": {"recover_velocity": 50.0},
        "display_status": {},
        "exclude_object": {},
        "idle_timeout": {"timeout": 600.0},
    }
    optional: dict[str, dict[str, Any]] = {
        "heater_generic chamber": _heater(80.0) | {"gcode_id": "C", "max_power": 1.0},
        "neopixel case": {"pin": "PB0", "chain_count": 1, "color_order": ["GRBW"]},
        "fan_generic filter": {"pin": "PD12", "max_power": 1.0},
        "extruder1": _extruder() | {"max_temp": 280.0},
    }
    return settings | {name: optional[name] for name in EXTRAS if name in extras}


def as_config(settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """`configfile.config`: the same as the text of a file."""
    return {section: {option: str(value) for option, value in options.items()} for section, options in settings.items()}


def _heater(max_temp: float) -> dict[str, Any]:
    return {
        "heater_pin": "PA2",
        "sensor_type": "Generic 3950",
        "sensor_pin": "PF4",
        "control": "pid",
        "min_temp": 0.0,
        "max_temp": max_temp,
    }


def _extruder() -> dict[str, Any]:
    return _heater(300.0) | {
        "min_extrude_temp": 170.0,
        "nozzle_diameter": 0.4,
        "filament_diameter": 1.75,
        "max_extrude_only_distance": 100.0,
        "max_extrude_only_velocity": 120.0,
        "max_extrude_cross_section": 0.64,
        "rotation_distance": 7.82,
        "pressure_advance": 0.04,
        "pressure_advance_smooth_time": 0.04,
    }


def _stepper(axis: str) -> dict[str, Any]:
    low, high = LIMITS[axis]
    return {
        "step_pin": "PC2",
        "dir_pin": "PB9",
        "microsteps": 16,
        "rotation_distance": 40.0,
        "endstop_pin": "^PA5",
        "position_endstop": 0.0,
        "position_min": low,
        "position_max": high,
        "homing_speed": HOMING_SPEED[axis],
        "homing_retract_dist": RETRACT,
        "second_homing_speed": HOMING_SPEED[axis] / 2,
    }
