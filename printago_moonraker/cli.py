"""What a person runs. Every error that a person can cause is one line, never a traceback.

Exit codes: 0 well, 1 failed, 2 wrong usage, 78 the configuration is broken (systemd does not restart on it).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import io
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from printago_moonraker import __version__, config, log, program, schemas
from printago_moonraker.credentials import Credentials
from printago_moonraker.errors import AgentError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

EX_CONFIG = 78
_say = partial(print, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of the command line; returns the exit code."""
    _open_streams()
    try:
        try:
            options = _parser().parse_args(arguments)
            program.called_with(getattr(options, "config", None))
            code: int = options.run(options)
        finally:
            sys.stdout.flush()  # here, where a full disk or a reader who is gone is still one line
    except ConfigError as error:
        return _complain(str(error), EX_CONFIG)
    except AgentError as error:
        return _complain(str(error), 1)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        _let_go(sys.stdout)
        if isinstance(error, BrokenPipeError):
            return 1  # who has read it wants no more: `schema | head`
        return _complain(f"{error.filename or 'standard output'}: {error.strerror or error}", 1)
    return code


def _open_streams() -> None:
    """Standard streams as the rest expects them: there, and able to show any text, if need be with a `?` in it."""
    sys.stdin = sys.stdin or _nothing("r")  # None where the caller has closed it
    sys.stdout = sys.stdout or _nothing("w")
    sys.stderr = sys.stderr or _nothing("w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _nothing(mode: str) -> TextIO:
    return cast("TextIO", Path(os.devnull).open(mode, encoding="utf-8"))


def _let_go(stream: TextIO) -> None:
    """Nothing more can be written: what is left would be tried again at the end of the process, and change its code."""
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="printago-moonraker", description="The printer agent between Printago and Moonraker."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    _add_host_commands(commands)
    _add_playing_commands(commands)
    return parser


def _add_host_commands(commands: Any) -> None:
    """What belongs on a printer's host."""
    run = _command(commands, "run", _run, "the agent, in the foreground")
    _takes_config(run)

    pair = _command(commands, "pair", _pair, "links this host to a Printago account")
    _takes_config(pair)
    pair.add_argument(
        "--store-id", metavar="ID", help="do not ask for the store ID; the API key is then read from standard input"
    )
    pair.add_argument("--code", action="store_true", help="show a code to enter in the browser, instead of asking")

    unpair = _command(commands, "unpair", _unpair, "forgets the credentials, and says so to Printago")
    _takes_config(unpair)

    doctor = _command(commands, "doctor", _doctor, "checks everything, and says what it saw and what to do")
    _takes_config(doctor)
    doctor.add_argument("--json", action="store_true", help="for programs")

    support = _command(commands, "support", _support, "writes one archive for a bug report, without secrets")
    _takes_config(support)
    support.add_argument("--output", type=Path, metavar="FILE", help="where to (default: a new file here)")


def _add_playing_commands(commands: Any) -> None:
    """What plays the cloud, or the printer."""
    send = _command(commands, "send", _send, "plays the cloud: sends one command over MQTT and prints the answer")
    _takes_config(send)
    send.add_argument("--printer", metavar="NAME", help="which printer; needed when there are several")
    send.add_argument(
        "--timeout",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="how long to wait for the answer (default: %(default)g)",
    )
    send.add_argument("command", metavar="TYPE.ACTION", help="for example printer_control.get_status")
    send.add_argument("parameters", nargs="*", metavar="NAME=VALUE", help="parameters; axes.x=10 makes an object")

    demo = _command(commands, "demo", _demo, "the whole main job on this machine, with a virtual printer")
    demo.add_argument(
        "--printers", type=_count, default=1, metavar="N", help="how many printers (default: %(default)s)"
    )
    demo.add_argument("--keep", action="store_true", help="leave everything running afterwards, to play with")
    demo.add_argument("--file", type=Path, metavar="G-CODE", help="the file to print (default: a small sliced model)")

    virtual = _command(
        commands, "virtual-printer", _virtual_printer, "one virtual printer, with the real Moonraker before it"
    )
    virtual.add_argument("--data-path", type=Path, required=True, metavar="DIR", help="where its files are kept")
    virtual.add_argument(
        "--port", type=_port, default=7125, metavar="N", help="Moonraker's port (default: %(default)s)"
    )
    virtual.add_argument(
        "--time-factor",
        type=_factor,
        default=1.0,
        metavar="X",
        help="how much faster than real it is (default: %(default)g)",
    )

    schema = _command(commands, "schema", _schema, "prints where the schemas are, or one of them")
    schema.add_argument("name", nargs="?", help="for example commands/printer_control.start_print")


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _takes_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help=f"configuration (default: {config.DEFAULT_PATH})"
    )


def _run(options: argparse.Namespace) -> int:
    from printago_moonraker import memory

    memory.stay_small()
    from printago_moonraker import agent

    settings = config.load(options.config)
    log.setup(settings.printago.log_level, settings.printago.log_path)
    return _wait_for(agent.run(settings))


def _pair(options: argparse.Namespace) -> int:
    from printago_moonraker import pair

    settings = config.load(options.config)
    pair.check_place(settings, options.config)
    if options.code or (options.store_id is None and settings.printago.token_url and not sys.stdin.isatty()):
        return _wait_for(pair.pair_by_code(settings, _say))
    try:
        found = _ask_for_credentials(options.store_id)
    except ValueError as error:
        return _complain(f"pair: {error}", 2)
    return _wait_for(pair.pair(settings, found, _say))


def _ask_for_credentials(store_id: str | None) -> Credentials:
    """From a person at a terminal, the key hidden, or from standard input. Raises ValueError."""
    asking = sys.stdin.isatty()
    if store_id is None and not asking:
        raise ValueError("give --store-id, and the API key on standard input; or run it on a terminal")
    try:
        store_id = input("Store ID: ") if store_id is None else store_id
        api_key = getpass.getpass("API key (stays hidden): ") if asking else sys.stdin.readline()
    except EOFError:
        print()  # the prompt's line is not ended yet
        raise ValueError("nothing was entered; nothing was changed") from None
    except UnicodeDecodeError:
        raise ValueError("what comes on standard input is no text; give the API key there, in one line") from None
    return Credentials(store_id.strip(), api_key.strip())


def _unpair(options: argparse.Namespace) -> int:
    from printago_moonraker import pair

    return _wait_for(pair.unpair(config.load(options.config), _say))


def _doctor(options: argparse.Namespace) -> int:
    from printago_moonraker import doctor

    return doctor.run(options.config, json_wanted=options.json)


def _support(options: argparse.Namespace) -> int:
    from printago_moonraker import support

    return support.run(options.config, options.output)


def _send(options: argparse.Namespace) -> int:
    from printago_moonraker import cloud

    settings = config.load(options.config)
    return _wait_for(
        cloud.send_command(
            settings, options.printer, options.command, options.parameters, write=print, timeout=options.timeout
        )
    )


def _demo(options: argparse.Namespace) -> int:
    from printago_moonraker import demo

    return _wait_for(demo.run(printers=options.printers, keep=options.keep, file=options.file))


def _virtual_printer(options: argparse.Namespace) -> int:
    from printago_moonraker.virtual.rig import run_virtual_printer

    return _wait_for(run_virtual_printer(options.data_path, options.port, options.time_factor))


def _schema(options: argparse.Namespace) -> int:
    if options.name:
        print(schemas.text(options.name), end="")
    else:
        print(schemas.path(), *schemas.names(), sep="\n")
    return 0


def _wait_for(main_coroutine: Coroutine[Any, Any, int]) -> int:
    return asyncio.run(main_coroutine)


def _complain(sentence: str, code: int) -> int:
    try:
        print(f"printago-moonraker: {sentence}", file=sys.stderr, flush=True)
    except OSError:
        _let_go(sys.stderr)
    return code


def _count(text: str) -> int:
    return _whole(text, 1, 50)


def _port(text: str) -> int:
    return _whole(text, 1, 65535)


def _whole(text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
    return int(text)


def _factor(text: str) -> float:
    return _number(text, 0.1, 1000)


def _seconds(text: str) -> float:
    return _number(text, 0.1, 86400)


def _number(text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not low <= value <= high:  # nor is NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
    return value
