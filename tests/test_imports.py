"""The design's rules about modules, read from the syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "printago_moonraker"

# Imports go down only. What stands on one level may use its neighbours; moonraker and printago may not.
LEVELS: list[set[str]] = [
    {
        "",
        "config",
        "config_file",
        "credentials",
        "options",
        "program",
        "errors",
        "backoff",
        "supervise",
        "log",
        "schemas",
        "urlpolicy",
        "web",
        "clock",
        "lock",
        "memory",
        "systemd",
    },
    {"moonraker", "printago"},
    {"printer"},
    {"reporter", "status", "events", "commands", "announcement"},
    {"session", "pair"},
    {"agent"},
    {"cli", "config_docs", "doctor", "findings", "support", "redaction", "demo", "cloud", "__main__"},
]
HELPERS, TOP = LEVELS[0], LEVELS[-1]
LIBRARIES = {
    "websockets": {"moonraker/connection.py"},
    "aiohttp": {"web.py"},
    "paho": {"printago/mqtt.py"},
}
MODULES = sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py"))


def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text("utf-8"))


def imported(module: str) -> set[str]:
    """The dotted names that a module imports, wherever in it: at its top, in functions, for type checkers."""
    here = ["printago_moonraker", *module.split("/")[:-1]]
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            # `from package import name`: the name may be a module; where it is none, its unit is the same.
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def units(module: str) -> set[str]:
    """The parts of this program that a module imports: `config`, `printer`, ..."""
    parts = [name.split(".") for name in imported(module)]
    own = {part[1] for part in parts if part[0] == "printago_moonraker" and len(part) > 1}
    return {name for name in own if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()}


def unit_of(module: str) -> str:
    return "" if module == "__init__.py" else module.split("/")[0].removesuffix(".py")


def level_of(unit: str) -> int:
    found = [number for number, level in enumerate(LEVELS) if unit in level]
    assert found, f"{unit} has no level yet: say here where it stands"
    return found[0]


@pytest.mark.parametrize("module", [module for module in MODULES if unit_of(module) != "virtual"])
def test_imports_go_down_only(module: str) -> None:
    """A module imports from its own unit, its level or below; the two edges never know each other."""
    unit = unit_of(module)
    for other in units(module) - {unit}:
        if other == "virtual":
            assert unit in TOP, f"{module} imports virtual"
            continue
        assert level_of(other) <= level_of(unit), f"{module} imports {other}"
        assert {unit, other} != {"moonraker", "printago"}, f"{module} imports {other}"


@pytest.mark.parametrize("module", [module for module in MODULES if unit_of(module) == "virtual"])
def test_the_virtual_printer_imports_only_helpers(module: str) -> None:
    """The virtual printer shares nothing with the agent that it tests but the helpers."""
    assert units(module) - {"virtual"} <= HELPERS


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_module_an_edge_names_its_library(library: str) -> None:
    """A network library is named by exactly one module of the agent."""
    agent = [module for module in MODULES if unit_of(module) != "virtual"]
    naming = {module for module in agent if any(name.split(".")[0] == library for name in imported(module))}
    assert naming == LIBRARIES[library]


def test_the_agent_loads_nothing_of_the_demo() -> None:
    """`run` carries neither the virtual printer nor the demo's broker nor what a picture needs."""
    code = (
        "import sys, printago_moonraker.agent\n"
        "unwanted = {'printago_moonraker.virtual', 'printago_moonraker.demo', 'amqtt', 'PIL', 'pytest'}\n"
        "sys.exit(', '.join(unwanted & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_stay_small(module: str) -> None:
    """A module has at most 400 lines, a function at most 60."""
    lines = len((PACKAGE / module).read_text("utf-8").splitlines())
    assert lines <= 400, module
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or node.lineno) - node.lineno < 60, f"{module}: {node.name}"


@pytest.mark.parametrize("module", MODULES)
def test_except_exception_is_rare(module: str) -> None:
    """Only supervise, who runs commands, who reads notifications and who makes the doctor's checks swallow every
    exception; the rest pass them on, the database's thread to those who wait for it.
    """
    allowed = {"supervise.py", "commands/executor.py", "commands/registry.py", "moonraker/connection.py"}
    allowed |= {"findings.py", "support.py", "printago/database.py"}
    if module in allowed or unit_of(module) == "virtual":
        return
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ExceptHandler) and {"Exception", "BaseException"} & caught(node):
            assert passes_on(node), f"{module}:{node.lineno}"


def passes_on(handler: ast.ExceptHandler) -> bool:
    """Whether a handler raises again, or hands the exception to who waits for a future."""
    return any(
        isinstance(each, ast.Raise) or (isinstance(each, ast.Attribute) and each.attr == "set_exception")
        for each in ast.walk(handler)
    )


def caught(handler: ast.ExceptHandler) -> set[str]:
    """The exceptions that a handler names; a bare one catches BaseException."""
    if handler.type is None:
        return {"BaseException"}
    return {each.id for each in ast.walk(handler.type) if isinstance(each, ast.Name)}
