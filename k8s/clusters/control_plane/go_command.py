"""Runs the Go command in a folder with a go.mod and a go.sum: fetches modules, builds programs.

Tells what the machine lacks, which is no fault, from what is wrong with the folder. Knows no
program of Kubernetes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from k8s.clusters.host.unavailable import UnavailableError

# What the Go command says where the pinned versions or checksums are wrong, not the machine.
_FAULTS = ("SECURITY ERROR", "checksum mismatch", "missing go.sum entry", "updates to go.mod")


@dataclass(frozen=True, slots=True)
class GoCommand:
    """Each call ends at `deadline`, of time.monotonic(), by an UnavailableError."""

    folder: Path
    deadline: float = math.inf

    def build(self, package: str, linker_flags: Sequence[str], target: Path) -> None:
        """UnavailableError where modules cannot be fetched; RuntimeError where they do not fit."""
        self._fetch(package)
        flags = ("-ldflags", " ".join(linker_flags), "-o", str(target))
        command = ("go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false")
        ran = self._run(*command, *flags, package)
        if ran.returncode:
            raise RuntimeError(f"go could not build {package}:\n{ran.stderr[-3000:]}")

    def source(self, module: str) -> Path:
        """The folder of a module's source, at the pinned version. Errors as from `build`."""
        ran = self._fetched(module, "go", "mod", "download", "-json", module)
        return Path(json.loads(ran.stdout)["Dir"])

    def _fetch(self, package: str) -> None:
        """Bring every module that the package is made of."""
        self._fetched(package, "go", "list", "-mod=readonly", "-deps", package)

    def _fetched(self, what: str, *command: str) -> subprocess.CompletedProcess[str]:
        ran = self._run(*command)
        if not ran.returncode:
            return ran
        said = ran.stderr + ran.stdout
        if any(words in said for words in _FAULTS):
            raise RuntimeError(f"go refuses the modules of {what}:\n{said[-3000:]}")
        reason = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1].strip()
        raise UnavailableError(f"go could not fetch the modules of {what}: {reason}")

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Compilers end with their Go command."""
        if shutil.which("go") is None:
            words = "make clusters needs Go 1.26 or later on the PATH; see docs/clusters.md"
            raise UnavailableError(words)
        rest = None if math.isinf(self.deadline) else max(0.0, self.deadline - time.monotonic())
        with subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                printed, errors = process.communicate(timeout=rest)
            except subprocess.TimeoutExpired:
                raise UnavailableError(f"go did not finish {command[-1]} in time") from None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(command, process.returncode, printed, errors)
