"""The contract made executable: the JSON Schemas in `schemas/`, and the check that a command's parameters pass first.

jsonschema is imported by the first check, so that a process which checks nothing (`schema`, `virtual-printer`) does not
carry it.
"""

from __future__ import annotations

import functools
import json
import math
import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from printago_moonraker.errors import AgentError, InvalidParameters
from printago_moonraker.log import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

_MOST_DETAILS = 10
_TYPES = {
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}


@functools.cache
def path() -> Path:
    """The folder of the schemas: in an installed package inside it, in a checkout beside it."""
    package = Path(__file__).parent
    installed = package / "_schemas"
    return installed if installed.is_dir() else package.parent / "schemas"


@functools.cache
def names() -> tuple[str, ...]:
    """Every schema's name, sorted: `command`, `commands/printer_control.start_print`, `envelopes/status`, ..."""
    return tuple(sorted(file.relative_to(path()).with_suffix("").as_posix() for file in path().rglob("*.json")))


def text(name: str) -> str:
    """The schema `name` as it stands in its file. Raises AgentError when there is none of that name."""
    if name not in names():
        raise AgentError(f"There is no schema {printable(name)}; there are {', '.join(names())}.")
    return (path() / f"{name}.json").read_text("utf-8")


def commands() -> frozenset[tuple[str, str]]:
    """The (type, action) of every command that has a schema."""
    files = (name.removeprefix("commands/") for name in names() if name.startswith("commands/"))
    return frozenset((type_, action) for type_, _, action in (file.partition(".") for file in files))


@functools.cache
def validator(type_: str, action: str) -> Validator:
    """The check of one command's parameters, compiled at its first use. Raises AgentError when it has no schema."""
    return compiled(f"commands/{type_}.{action}")


def compiled(name: str) -> Validator:
    """A check against the schema `name`. Raises AgentError when there is none of that name."""
    check: Validator = _validator_class()(json.loads(text(name)), registry=_registry())
    return check


def validate_parameters(type_: str, action: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """A command's parameters with every number as a number, also those that came as decimal strings, and without the
    optional ones that are null: they count as absent.

    Raises InvalidParameters: its sentence names the first thing that does not fit, its details are up to ten
    {path, message}.
    """
    check = validator(type_, action)
    values: dict[str, Any] = _as_meant(check.schema, parameters)
    try:
        details = [_detail(error) for error in islice(check.iter_errors(values), _MOST_DETAILS)]
    except RecursionError:
        # jsonschema puts the repr() of what does not fit into its own message.
        details = [{"path": "", "message": "must not be nested so deeply."}]
    if details:
        raise InvalidParameters(_sentence(**details[0]), details=details)
    return values


@functools.cache
def _common() -> dict[str, Any]:
    parts: dict[str, Any] = json.loads(text("common"))
    return parts


@functools.cache
def _registry() -> Any:
    from referencing import Registry, Resource

    # One resource, and no way to retrieve others: a reference never reaches the network.
    return Registry().with_resource(_common()["$id"], Resource.from_contents(_common()))


@functools.cache
def _validator_class() -> Any:
    from jsonschema import Draft202012Validator, validators

    # Python's floats know NaN and infinities, which every bound lets through.
    def number(_: object, value: object) -> bool:
        if isinstance(value, float):
            return math.isfinite(value)
        return isinstance(value, int) and not isinstance(value, bool)

    checker = Draft202012Validator.TYPE_CHECKER.redefine("number", number)
    return validators.extend(Draft202012Validator, type_checker=checker)  # type: ignore[no-untyped-call]


# ---- numbers that came as strings, and what is absent although it came


def _as_meant(schema: Any, value: Any) -> Any:
    """`value` with strings turned into numbers where `schema` asks for them, and without declared members that are null
    and not required; before the check, for the sake of its bounds and of what needs at least one of several.
    """
    kind, schema = _resolve(schema)
    if kind:
        return _number(kind, value)
    if isinstance(value, dict):
        declared = schema.get("properties", {})
        required = schema.get("required", ())
        given = {key: item for key, item in value.items() if item is not None or key in required or key not in declared}
        return {key: _as_meant(declared[key], item) if key in declared else item for key, item in given.items()}
    return value


def _resolve(schema: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where the references of `schema` end: "number", "integer" or "", and the schema there."""
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = _common()["$defs"][name]
        if name in ("number", "integer"):
            return name, schema
    return "", schema


def _number(kind: str, value: Any) -> Any:
    spelling = _common()["$defs"][kind]["anyOf"][1]
    if isinstance(value, str) and len(value) <= spelling["maxLength"] and re.search(spelling["pattern"], value):
        return int(value) if kind == "integer" else float(value)
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


# ---- what a person reads


def _sentence(path: str, message: str) -> str:  # names as in the details
    if not path:
        return f"The parameters {message}" if message.startswith("must ") else message
    return f"{path} {message}" if message.startswith(("is ", "must ")) else f"{path}: {message}"


def _detail(error: ValidationError) -> dict[str, str]:
    place = list(error.absolute_path)
    if error.validator == "required":
        # One error for each that is missing, and only the message tells which.
        names: Any = error.validator_value
        place.append(next(name for name in names if error.message.startswith(repr(name))))
    return {"path": _place(place), "message": printable(_message(error))}


def _place(parts: Iterable[str | int]) -> str:
    joined = "".join(f"[{part}]" if isinstance(part, int) else f".{printable(part, 60)}" for part in parts)
    return joined.removeprefix(".")


def _message(error: ValidationError) -> str:
    schema = error.schema if isinstance(error.schema, dict) else {}
    limit: Any = error.validator_value
    shown = _shown(error.instance)
    match error.validator:
        case "required":
            return "is missing."
        case "type" | "anyOf" | "pattern" | "enum":
            wanted = schema.get("title") or _wanted(error.validator, limit)
            return f"must be {wanted}." if isinstance(error.instance, dict | list) else f"{shown} is not {wanted}."
        case "minimum":
            return f"{shown} is below {limit}."
        case "maximum":
            return f"{shown} is above {limit}."
        case "exclusiveMinimum":
            return f"{shown} is not above {limit}."
        case "minLength" | "minItems":
            return "must not be empty."
        case "maxLength":
            return f"is longer than {limit} characters."
        case "maxItems":
            return f"is longer than {limit} entries."
        case "not":
            return f"must not be {limit['const']}."
    return error.message


def _wanted(keyword: str, value: Any) -> str:
    if keyword == "type":
        return " or ".join(_TYPES[each] for each in ([value] if isinstance(value, str) else value))
    if keyword == "enum":
        return f"one of {', '.join(map(str, value))}"
    return "as it should be"


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "this"
    return f"'{printable(value, 60)}'" if isinstance(value, str) else printable(json.dumps(value), 60)
