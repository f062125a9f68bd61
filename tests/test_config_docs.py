"""The page about the configuration is what the options themselves say."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from printago_moonraker import config_docs
from printago_moonraker.config import SECTIONS

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"


def test_the_page_is_the_generated_one() -> None:
    """An option that changes changes the page: python -m printago_moonraker.config_docs > docs/configuration.md"""
    assert PAGE.read_text("utf-8") == config_docs.page()


def test_every_option_is_in_it() -> None:
    """Each section and each option has its line, with words in it."""
    lines = config_docs.page().splitlines()
    for section, declared in SECTIONS.items():
        assert any(line.startswith(f"## [{section}") for line in lines)
        for each in fields(declared):
            if "parse" in each.metadata:
                assert each.metadata["help"].endswith(".")
                assert any(line.startswith(f"| `{each.name}` | ") for line in lines), each.name
