"""The whole main job on one machine, with nothing else installed, played for a person to watch."""

from printago_moonraker.demo.stage import run

__all__ = ["run"]
