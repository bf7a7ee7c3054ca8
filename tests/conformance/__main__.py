"""Check a server by its URL: `make conformance URL=http://HOST:8000 GRPC=HOST:9000 PID=123`."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.conformance.kit import find, report, rules, run


async def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.conformance", description=__doc__)
    parser.add_argument("url", help="the HTTP address, such as http://127.0.0.1:8000")
    parser.add_argument(
        "--grpc", default="", help="HOST:PORT of gRPC; without it, its rules are skipped"
    )
    parser.add_argument(
        "--pid", type=int, default=0, help="the server's process, which a rule ends"
    )
    arguments = parser.parse_args()
    target = await find(arguments.url, arguments.grpc, arguments.pid)
    results = await run(target, rules())
    print(report(results))
    return int(any(result.outcome == "FAIL" for result in results))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
