"""`antipode serve` with the fake engine process in place of the real one."""

from __future__ import annotations

import os
import sys

from server.__main__ import build_parser
from server.config.sources import load_config
from server.processes.supervisor import run_supervisor

if __name__ == "__main__":
    flags = vars(build_parser().parse_args())
    del flags["command"]
    engine_command = [sys.executable, "-m", "tests.e2e.programs.fake_engine"]
    sys.exit(run_supervisor(load_config(flags, os.environ), engine_command=engine_command))
