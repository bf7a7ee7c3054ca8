"""`antipode serve` with the paced device: everything else is the server as it is."""

from __future__ import annotations

import os
import sys

from server.__main__ import build_parser
from server.config.sources import load_config
from server.processes.supervisor import run_supervisor

if __name__ == "__main__":
    flags = vars(build_parser().parse_args())
    del flags["command"]
    engine_command = [sys.executable, "-m", "benchmarks.host_path.engine"]
    sys.exit(run_supervisor(load_config(flags, os.environ), engine_command=engine_command))
