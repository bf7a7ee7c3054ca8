"""The command line: `antipode serve`, `plan`, `slice`, `publish`, `verify`, `generate`, `version`.

It parses the flags, loads the configuration and calls the command. A wrong setting ends in one
sentence and exit code 2. This module imports no JAX, because it stays loaded in the supervisor.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NoReturn

from server import first_process as _first_process  # noqa: F401 (its import is its effect)
from server.commands import plan as plan_command
from server.commands import publish
from server.commands import serve as serve_command
from server.commands import slice as slice_command
from server.config.setting import ConfigError
from server.config.sources import add_flags, load_config

_USAGE_ERROR = 2

_SERVE_EPILOG = """\
Every flag is also an environment variable (--max-num-seqs is ANTIPODE_MAX_NUM_SEQS) and a key of
the configuration file (max_num_seqs). A flag beats a variable, a variable beats the file."""


class _Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one sentence instead of printing the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE_ERROR, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="antipode",
        description="Serve a language model over gRPC and the OpenAI HTTP API.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_flags(_add_settable(commands, "serve", "run the server", serve_command.DESCRIPTION))
    _add_slice(commands)
    _add_plan(commands)
    _add_publish(commands)
    if find_spec("antipode") is not None:
        _add_generate(commands)
    commands.add_parser("version", help="print the release", allow_abbrev=False)
    return parser


def _add_settable(commands: Any, name: str, summary: str, description: str) -> Any:
    """A command with the server's settings as flags. A flag that is not given sets no attribute."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=_SERVE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )


def _add_slice(commands: Any) -> None:
    summary = "report which chips, hosts and network interfaces the server would run on"
    parser = _add_settable(commands, "slice", summary, slice_command.DESCRIPTION)
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    add_flags(parser)


def _add_plan(commands: Any) -> None:
    parser = commands.add_parser(
        "plan",
        help="compile the server's programs for a slice that is not here",
        description=plan_command.DESCRIPTION,
        allow_abbrev=False,
    )
    plan_command.add_arguments(parser)


def _add_publish(commands: Any) -> None:
    publish_parser = commands.add_parser(
        "publish",
        help="make a version that servers can change to from a checkpoint",
        description=publish.PUBLISH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    publish.add_publish_arguments(publish_parser)
    verify_parser = commands.add_parser(
        "verify", help="check a published version", description=publish.VERIFY, allow_abbrev=False
    )
    verify_parser.add_argument("path", metavar="PATH", help="a version's folder")


def _add_generate(commands: Any) -> None:
    """Add the client's command, if the client is installed."""
    from antipode import command as generate_command

    generate_parser = commands.add_parser(
        "generate",
        help="stream a completion from a server",
        description=generate_command.DESCRIPTION,
        allow_abbrev=False,
    )
    generate_command.add_arguments(generate_parser)


def generate(arguments: argparse.Namespace) -> int:
    """Run the client's command. Returns the exit code."""
    from antipode import command as generate_command

    return generate_command.run(arguments)


def show_slice(flags: dict[str, str], *, as_json: bool) -> int:
    """Print the slice that a server with these flags would run on. Returns the exit code."""
    try:
        config = load_config(flags, os.environ)
    except ConfigError as error:
        print(f"antipode slice: {error}", file=sys.stderr)
        return _USAGE_ERROR
    return slice_command.run(config.engine, as_json=as_json)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code of the process."""
    arguments = vars(build_parser().parse_args(argv))
    command = arguments.pop("command")
    if command == "version":
        print(f"antipode {version('antipode-server')}")
        return 0
    if command == "plan":
        return plan_command.run(argparse.Namespace(**arguments))
    if command == "publish":
        return publish.run_publish(argparse.Namespace(**arguments))
    if command == "verify":
        return publish.run_verify(argparse.Namespace(**arguments))
    if command == "generate":
        return generate(argparse.Namespace(**arguments))
    if command == "slice":
        as_json = arguments.pop("json")
        return show_slice(arguments, as_json=as_json)
    return serve_command.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
