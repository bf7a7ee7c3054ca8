"""`antipode-generate`, and `antipode generate` if the server is installed too.

Prints the text to stdout as it arrives. Retries and resumptions go to stderr, so that a pipe gets
only the text.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antipode.stream import AsyncStream

DESCRIPTION = "Stream a completion. If the stream breaks, the client resumes it on another replica."
KEY_VARIABLE = "ANTIPODE_API_KEY"
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
_OPTIONS: tuple[tuple[str, type, str], ...] = (
    ("--max-tokens", int, "generate at most this many tokens"),
    ("--min-tokens", int, "generate at least this many tokens"),
    ("--temperature", float, "randomness of the tokens; 0 always takes the likeliest"),
    ("--top-p", float, "draw from the likeliest tokens that together have this probability"),
    ("--top-k", int, "draw from this many of the likeliest tokens"),
    ("--seed", int, "seed of the random choices; equal seeds give equal tokens"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("prompt", help="the text to continue; - reads it from standard input")
    parser.add_argument(
        *("--server", "-s"),
        action="append",
        metavar="URL",
        help="grpc://host:port or http://host:port; repeat it for further servers (default:"
        " grpc://localhost:9000)",
    )
    parser.add_argument("--model", default="", help="the served model's name")
    parser.add_argument("--chat", action="store_true", help="send the prompt as a user's message")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="stop at this text")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="limit for the whole call")
    parser.add_argument(
        "--api-key-file", metavar="FILE", help=f"the API key (default: the variable {KEY_VARIABLE})"
    )
    parser.add_argument("--ca-file", default="", metavar="FILE", help="authorities to trust (PEM)")
    parser.add_argument("--cert-file", default="", metavar="FILE", help="own certificate (PEM)")
    parser.add_argument("--key-file", default="", metavar="FILE", help="its private key (PEM)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    for flag, kind, description in _OPTIONS:
        parser.add_argument(flag, type=kind, metavar=kind.__name__.upper(), help=description)


def run(arguments: argparse.Namespace) -> int:
    """Generate the text; returns the exit code."""
    # Imported here so that `--help` stays fast.
    import asyncio

    from antipode.errors import AntipodeError

    try:
        return asyncio.run(_generate(arguments))
    except (AntipodeError, OSError, ValueError) as error:
        print(f"{error}", file=sys.stderr)
        return EXIT_FAILED if isinstance(error, AntipodeError) else EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="antipode-generate", description=DESCRIPTION)
    add_arguments(parser)
    return run(parser.parse_args(argv))


async def _generate(arguments: argparse.Namespace) -> int:
    from antipode.client import AsyncClient
    from antipode.tls import Tls

    text = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    prompt = [{"role": "user", "content": text}] if arguments.chat else text
    addresses = arguments.server or ["grpc://localhost:9000"]
    tls = Tls(arguments.ca_file, arguments.cert_file, arguments.key_file)
    async with AsyncClient(*addresses, api_key=_api_key(arguments), tls=tls) as client:
        stream = client.generate(
            prompt, model=arguments.model, timeout=arguments.timeout, **_options(arguments)
        )
        async with stream:
            if arguments.json:
                [choice] = await stream.collect()
                print(json.dumps(_answer(stream, asdict(choice))))
            else:
                await _print(stream)
    if stream.num_retries or stream.num_resumed:
        print(f"retried {stream.num_retries}, resumed {stream.num_resumed}", file=sys.stderr)
    return 0


def _api_key(arguments: argparse.Namespace) -> str:
    """Never an argument itself: other users of the machine see arguments."""
    if arguments.api_key_file is None:
        return os.environ.get(KEY_VARIABLE, "")
    return Path(arguments.api_key_file).read_text(encoding="utf-8").strip()


async def _print(stream: AsyncStream) -> None:
    async for delta in stream:
        print(delta.text, end="", flush=True)
    print()


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    names = [flag.removeprefix("--").replace("-", "_") for flag, _, _ in _OPTIONS]
    given = {name: getattr(arguments, name) for name in (*names, "stop")}
    return {name: value for name, value in given.items() if value is not None}


def _answer(stream: AsyncStream, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        **choice,
        "start": asdict(stream.start) if stream.start else None,
        "usage": asdict(stream.usage) if stream.usage else None,
        "num_retries": stream.num_retries,
        "num_resumed": stream.num_resumed,
    }


if __name__ == "__main__":
    sys.exit(main())
