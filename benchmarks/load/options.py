"""The flags of a comparison of two servers. Knows neither loads nor plots."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.load.workloads import WORKLOADS

# This server on the demo model.
_OURS = (
    "{python} -m server serve --model {demo} --host 127.0.0.1 --http-port {port} --grpc-port 0"
    " --log-level warning"
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of `make bench PEER=`."""
    parser = argparse.ArgumentParser(description="Load this server and another in turn.")
    parser.add_argument("--peer", required=True, help="its URL, or a command with {port}")
    parser.add_argument("--peer-name", default="peer")
    parser.add_argument("--ours", default=_OURS, help="likewise; also {python} and {demo}")
    parser.add_argument("--ours-name", default="antipode")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="requests per second")
    parser.add_argument(
        "--requests", type=int, default=0, help="per load; 0 is 2 per stream, or 20 s of a rate"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workload", choices=WORKLOADS, default="random")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="of random prompts")
    parser.add_argument("--new-tokens", type=int, default=128, help="at most")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--ttft-ms", type=float, default=1000, help="the bound of goodput")
    parser.add_argument("--tpot-ms", type=float, default=100, help="the bound of goodput")
    parser.add_argument("--out", type=Path, default=Path(".cache/bench"))
    return parser
