"""What is made from the schemas and the tests is what is committed."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from printago_moonraker import errors
from printago_moonraker.commands.registry import names
from printago_moonraker.errors import CommandError
from printago_moonraker.printago.envelope import ENVELOPE_TYPES, Dialect, make_topics

ROOT = Path(__file__).parent.parent
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))


@pytest.mark.parametrize(
    ("maker", "path"),
    [("messages", "docs/messages.md"), ("asyncapi", "schemas/asyncapi.yaml"), ("commands", "docs/commands.md")],
)
def test_the_committed_file_is_up_to_date(maker: str, path: str) -> None:
    """Run `python docs/generate.py` after a change of the schemas, or of what a test shows."""
    assert (ROOT / path).read_text("utf-8") == GENERATE[maker]()


def test_every_command_is_shown() -> None:
    """Each command of the registry has an end-to-end test that says to show it, and no test shows what is none."""
    assert sorted(GENERATE["shown"]()) == names()


def test_every_error_code_is_explained() -> None:
    """The table of docs/protocol.md has the code of each error that a command may be answered with, and no other."""
    page = (ROOT / "docs/protocol.md").read_text("utf-8")
    table = page.partition("## Error codes")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, CommandError)]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == {each.code for each in classes if each is not CommandError}


@pytest.fixture(name="document", scope="module")
def fixture_document() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "schemas/asyncapi.yaml").read_text("utf-8"))
    return document


def test_the_document_has_the_agents_topics(document: dict[str, Any]) -> None:
    """The addresses are those that the agent uses by default."""
    topics = make_topics("PRINTER", Dialect.KLIPPER)
    expected = {topics.commands, topics.availability, topics.frames("CAMERA"), *map(topics.message, ENVELOPE_TYPES)}
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert {each.format(printer_id="PRINTER", camera_name="CAMERA") for each in addresses} == expected


def test_the_document_has_every_message(document: dict[str, Any]) -> None:
    """Each command of the registry and each envelope is a message, and each reference leads to a file that is there."""
    messages = document["components"]["messages"]
    assert {message["name"] for message in messages.values()} == {*names(), *ENVELOPE_TYPES}
    references = [line.split(': "')[1].strip('"\n') for line in _lines() if line.strip().startswith('"$ref": "./')]
    assert references
    assert all((ROOT / "schemas" / reference).is_file() for reference in references)


def _lines() -> list[str]:
    return (ROOT / "schemas/asyncapi.yaml").read_text("utf-8").splitlines()
