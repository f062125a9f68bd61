"""docs/configuration.md, made out of the options' own declarations: `python -m printago_moonraker.config_docs`."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from printago_moonraker.config import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD: Final = """\
# Configuration

<!-- Made by `python -m printago_moonraker.config_docs > docs/configuration.md`; a test compares the two. -->

`printago.cfg` is in `~/printer_data/config/`, where Mainsail and Fluidd can edit it (on a host with nothing but
`~/printer_*_data`, in the `config` folder of the first of them); `-c FILE` names another. It is written like Klipper's
own: `name: value` or `name = value`, `#` and `;` begin a comment, `~` is the home folder. It holds no secret: those are
in the credentials file that `printago-moonraker pair` writes, or in files that options ending in `_file` name.

Every option has a default, and a printer on the same host needs none of them. A section or option that does not exist
is an error which names the one that is probably meant; `printago-moonraker doctor` checks the file. After a change,
restart the agent.
"""

_ABOUT: Final = {
    "printago": "The agent itself. From `device_authorization_url` on, the options are for servers that offer pairing "
    "by a code (RFC 8628).",
    "mqtt": "The broker. Username and password come from the pairing unless they are given here. `{printer_id}`, "
    "`{type}` and `{camera_name}` are filled in where an option is a template.",
    "printer": "One such section a printer: `[printer voron-24]`, say. Without any there is one printer, named after "
    "the host.",
    "status": "How often a status goes out, and how much is told; a change of state goes out at once, whatever is said "
    "here.",
    "commands": "What the cloud may ask for.",
    "transfers": "Where files come from and where they go.",
    "camera": "Streams of pictures.",
}


def page() -> str:
    """The whole page, Markdown."""
    return "\n".join([_HEAD, *(line for section in SECTIONS for line in _section(section))])


def _section(section: str) -> Iterator[str]:
    yield f"## [{section}]" if section != "printer" else "## [printer NAME]"
    yield ""
    yield _ABOUT[section]
    yield ""
    yield "| option | default | |"
    yield "| --- | --- | --- |"
    for each in fields(SECTIONS[section]):
        if "parse" in each.metadata:
            default = each.metadata["default"]
            yield f"| `{each.name}` | {f'`{default}`' if default else ''} | {each.metadata['help']} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(page())
