"""`python -m tests.fuzz`: many random things, and what they broke."""

from __future__ import annotations

import argparse
import secrets
import sys

from tests.fuzz.run import NAMES, few_of_each, fuzz

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="things in all")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--only", default="", help=f"one thing, as NAME/NUMBER; {', '.join(NAMES)}")
    arguments = parser.parse_args()
    print(f"fuzz: {arguments.count} things, seed {arguments.seed}", flush=True)
    broken = fuzz(arguments.count, arguments.seed, arguments.only)
    print("\n".join(one[:1000] for one in few_of_each(broken)))
    print(f"fuzz: {len(broken)} failures")
    sys.exit(1 if broken else 0)
