"""Writes what follows from the schemas, `docs/messages.md` and `schemas/asyncapi.yaml`, and from the tests,
`docs/commands.md`.

Run it after a change: `python docs/generate.py`.

A test compares the files with what this would write, so none can drift.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from printago_moonraker import __version__, schemas

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
MESSAGES = ROOT / "docs" / "messages.md"
ASYNCAPI = ROOT / "schemas" / "asyncapi.yaml"
COMMANDS = ROOT / "docs" / "commands.md"
SHOWING = ROOT / "tests" / "e2e"
ENVELOPES = ("pairing", "status", "event", "success", "error", "response")

Schema = dict[str, Any]


def load(name: str) -> Schema:
    """One schema by its name."""
    schema: Schema = json.loads(schemas.text(name))
    return schema


def command_names() -> list[str]:
    """All commands as `type.action`, sorted."""
    return sorted(f"{kind}.{action}" for kind, action in schemas.commands())


# ------------------------------------------------------------------------------------------------------- messages.md


def messages() -> str:
    """The page: each command with its parameters, each envelope with its members, an example of each."""
    parts = [
        "# Messages\n",
        "Made from [`schemas/`](../schemas) by `docs/generate.py`; the overview is [protocol.md](protocol.md).\n",
        "## Commands\n",
        *(_command(name) for name in command_names()),
        "## Envelopes\n",
        *(_envelope(name) for name in ENVELOPES),
    ]
    return "\n".join(parts)


def _command(name: str) -> str:
    schema = load(f"commands/{name}")
    kind, _, action = name.partition(".")
    example = {"type": kind, "action": action, "parameters": schema["examples"][0]}
    rows = _rows(schema)
    table = ["| parameter | | what |", "| --- | --- | --- |", *rows] if rows else ["No parameters."]
    return "\n".join([f"### `{name}`\n", f"{schema['description']}\n", *table, "", _json(example)])


def _envelope(name: str) -> str:
    schema = load(f"envelopes/{name}")
    data = schema["properties"]["data"]
    if "anyOf" in data:
        data = next(each for each in data["anyOf"] if "properties" in each)
    rows = _rows(data)
    table = ["| member of `data` | | what |", "| --- | --- | --- |", *rows, ""] if rows else []
    return "\n".join([f"### `{name}`\n", f"{schema['description']}\n", *table, _json(schema["examples"][0])])


def _rows(schema: Schema, prefix: str = "") -> list[str]:
    rows = []
    for name, declared in schema.get("properties", {}).items():
        member = _resolved(declared)
        required = "required" if name in schema.get("required", ()) else ""
        rows.append(f"| `{prefix}{name}` | {required} | {_words(declared, member)} |")
        rows += _rows(member, f"{prefix}{name}.")
    return rows


def _words(declared: Schema, member: Schema) -> str:
    """What a person needs to know of one member, in one cell."""
    kind = member.get("type", "")
    kinds = " or ".join(kind) if isinstance(kind, list) else kind
    text = declared.get("description") or member.get("description") or member.get("title") or ""
    words = [each for each in (member.get("title") if kinds == "" else kinds, text) if each]
    return ": ".join(dict.fromkeys(words)).replace("|", "\\|").replace("\n", " ")


def _resolved(schema: Schema) -> Schema:
    """The schema with its reference followed; every reference leads into common.json."""
    resolved = dict(schema)
    while "$ref" in resolved:
        target = load("common")["$defs"][resolved.pop("$ref").rpartition("/")[2]]
        resolved = {**target, **resolved}
    return resolved


def _json(value: Any) -> str:
    return f"```json\n{json.dumps(value, indent=1, ensure_ascii=False)}\n```\n"


# ----------------------------------------------------------------------------------------------------- asyncapi.yaml


def asyncapi() -> str:
    """The AsyncAPI 3 document. Written as YAML's JSON subset would be, but readable: two levels of plain keys."""
    parameters = {"printer_id": {"description": "The printer's ID."}}
    commands = {_key(name): _command_message(name) for name in command_names()}
    envelopes = {name: _envelope_message(name) for name in ENVELOPES}
    document = {
        "asyncapi": "3.1.0",
        "info": {
            "title": "printago-moonraker",
            "version": __version__,
            "description": "A Klipper printer at Printago. Dialect `octoprint` has the topics of the OctoPrint plugin.",
            "license": {"name": "GPL-3.0-or-later"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "printago": {"host": "realtime.printago.io:8883", "protocol": "secure-mqtt", "protocolVersion": "5"}
        },
        "channels": {
            "commands": {
                "address": "printago/{printer_id}/commands",
                "parameters": parameters,
                "messages": {key: {"$ref": f"#/components/messages/{key}"} for key in commands},
            },
            **{
                name: {
                    "address": f"printago/{{printer_id}}/{name}",
                    "parameters": parameters,
                    "messages": {name: {"$ref": f"#/components/messages/{name}"}},
                }
                for name in ENVELOPES
            },
            "availability": {
                "address": "printago/{printer_id}/availability",
                "parameters": parameters,
                "messages": {
                    "availability": {
                        "contentType": "text/plain",
                        "payload": {"type": "string", "enum": ["connected", "disconnected"]},
                    }
                },
            },
            "camera": {
                "address": "printago/{printer_id}/camera/{camera_name}",
                "parameters": {**parameters, "camera_name": {"description": "The camera's name."}},
                "messages": {
                    "frame": {
                        "contentType": "image/jpeg",
                        "payload": {"type": "string", "contentMediaType": "image/jpeg"},
                    }
                },
            },
        },
        "operations": {
            "carryOutCommand": _operation("receive", "commands", qos=1, retain=False),
            **{
                f"send{name.capitalize()}": _operation("send", name, qos=1, retain=name == "status")
                for name in ENVELOPES
            },
            "sendAvailability": _operation("send", "availability", qos=1, retain=True),
            "sendFrame": _operation("send", "camera", qos=0, retain=False),
        },
        "components": {"messages": {**commands, **envelopes}},
    }
    return "# Made from schemas/ by docs/generate.py.\n" + "\n".join(_yaml(document)) + "\n"


def _operation(action: str, channel: str, *, qos: int, retain: bool) -> Schema:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "bindings": {"mqtt": {"qos": qos, "retain": retain, "bindingVersion": "0.2.0"}},
    }


def _key(name: str) -> str:
    return name.replace(".", "_")


def _command_message(name: str) -> Schema:
    kind, _, action = name.partition(".")
    schema = load(f"commands/{name}")
    payload = {
        "allOf": [
            {"$ref": "./command.json"},
            {
                "type": "object",
                "properties": {
                    "type": {"const": kind},
                    "action": {"const": action},
                    "parameters": {"$ref": f"./commands/{name}.json"},
                },
            },
        ]
    }
    return {"name": name, "title": schema["title"], "summary": schema["description"], "payload": payload}


def _envelope_message(name: str) -> Schema:
    schema = load(f"envelopes/{name}")
    return {"name": name, "title": schema["title"], "payload": {"$ref": f"./envelopes/{name}.json"}}


def _yaml(value: Any, indent: str = "") -> list[str]:
    """Block style for mappings and lists; scalars as JSON, which YAML 1.2 contains."""
    if isinstance(value, dict) and value:
        lines = []
        for key, item in value.items():
            nested = isinstance(item, dict | list) and item
            lines.append(
                f"{indent}{json.dumps(key) if key.startswith('$') else key}:"
                + ("" if nested else f" {json.dumps(item)}")
            )
            lines += _yaml(item, indent + "  ") if nested else []
        return lines
    lines = []
    for item in value:
        first, *rest = _yaml(item, indent + "  ") if isinstance(item, dict) else [f"{indent}  {json.dumps(item)}"]
        lines += [f"{indent}- {first.lstrip()}", *rest]
    return lines


# ------------------------------------------------------------------------------------------------------- commands.md


def commands() -> str:
    """The page: each command with the end-to-end tests that show its success."""
    found = shown()
    rows = [f"| `{name}` | {'<br>'.join(found.get(name, ['nothing']))} |" for name in command_names()]
    head = [
        "# What shows each command\n",
        "Made by `docs/generate.py` from the marks `shows` of the tests in [`tests/e2e`](../tests/e2e), where the real",
        "Moonraker, before the virtual printer, and a real broker take part. Each test run compares this page with the",
        "marks, and each mark with what was answered: a test that names a command that it did not see succeed fails.\n",
        "| command | shown by |\n| --- | --- |",
    ]
    return "\n".join([*head, *rows, ""])


def shown() -> dict[str, list[str]]:
    """By command, the tests that show it: a link, and the test's rule."""
    found: dict[str, list[str]] = {}
    for path in sorted(SHOWING.glob("test_*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for function in tree.body:
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                rule = " ".join((ast.get_docstring(function) or "").split("\n\n")[0].split()).replace("|", "\\|")
                link = f"[`{function.name}`](../{path.relative_to(ROOT).as_posix()}): {rule}"
                for name in _marks(function):
                    found.setdefault(name, []).append(link)
    return found


def _marks(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for mark in function.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.shows":
            yield from (ast.literal_eval(each) for each in mark.args)


def main() -> None:
    COMMANDS.write_text(commands(), "utf-8")
    MESSAGES.write_text(messages(), "utf-8")
    ASYNCAPI.write_text(asyncapi(), "utf-8")


if __name__ == "__main__":
    main()
