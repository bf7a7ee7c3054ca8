"""`python -m server.processes.engine`: an engine process with the model's own runner."""

from __future__ import annotations

import sys

from server.processes.engine.build import build_model_runner
from server.processes.engine.run import run_engine_process

if __name__ == "__main__":
    sys.exit(run_engine_process(build_model_runner))
