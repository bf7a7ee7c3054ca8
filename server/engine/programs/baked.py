"""Keeps compiled programs in a folder: `plan --bake` writes them, a starting server loads them.

A program is loaded only if everything it depends on is the same and its checksum matches. Every
other program is compiled, and the server logs why. The files are pickles: loading one may run any
code, and its checksum protects from damage but not from an attacker. So the server reads only a
folder that its operator names.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import platform
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import msgspec
from jax.experimental import serialize_executable
from jax.sharding import Mesh

from server.engine.programs.compiler_options import CompilerOptions, spell_options
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.programs import PickSize, ProgramName

_MANIFEST = "manifest.json"
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")

_log = logging.getLogger(__name__)


class ProgramKey(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a compiled program depends on. `program` is the hash of its StableHLO.

    `options` are those that the compiler is given for this program, beside its `flags`.
    """

    jax: str
    jaxlib: str
    libtpu: str
    flags: str
    topology: str
    program: str
    options: str = ""

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    def differences(self, other: ProgramKey) -> list[str]:
        """The fields in which two keys differ."""
        return [
            name for name in self.__struct_fields__ if getattr(self, name) != getattr(other, name)
        ]


class BakedProgram(msgspec.Struct, frozen=True, kw_only=True):
    """One compiled program in the folder, as the manifest lists it."""

    name: str
    key: ProgramKey
    file: str
    sha256: str
    compile_seconds: float


class BakedError(ValueError):
    """A baked program that cannot be used; the message says why."""


class BakedFolder:
    """The programs in one folder. The folder may be empty or missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._programs = {entry.key.digest: entry for entry in _read_manifest(path / _MANIFEST)}

    def __len__(self) -> int:
        return len(self._programs)

    def add(
        self, name: str, key: ProgramKey, compiled: jax.stages.Compiled, seconds: float
    ) -> None:
        """Write a program, then the manifest that names it."""
        payload, _, _ = serialize_executable.serialize(compiled)
        file = f"{name}-{key.digest[:16]}.bin"
        self.path.mkdir(parents=True, exist_ok=True)
        _replace(self.path / file, payload)
        self._programs[key.digest] = BakedProgram(
            name=name,
            key=key,
            file=file,
            sha256=hashlib.sha256(payload).hexdigest(),
            compile_seconds=round(seconds, 3),
        )
        _replace(self.path / _MANIFEST, msgspec.json.encode(list(self._programs.values())))

    def find(self, name: str, key: ProgramKey) -> BakedProgram:
        """The program of this key. The BakedError names the fields that differ the least."""
        if (entry := self._programs.get(key.digest)) is not None:
            return entry
        near: list[list[str]] = [
            entry.key.differences(key) for entry in self._programs.values() if entry.name == name
        ]
        if not near:
            raise BakedError("it was not baked")
        raise BakedError("it was baked for another " + " and ".join(sorted(near, key=len)[0]))

    def load(
        self, entry: BakedProgram, lowered: jax.stages.Lowered, mesh: Mesh
    ) -> jax.stages.Compiled:
        """Load the program on the mesh's devices. Raises BakedError where the file has changed."""
        try:
            payload = (self.path / entry.file).read_bytes()
        except OSError as error:
            raise BakedError(f"{entry.file} cannot be read: {error}") from error
        if hashlib.sha256(payload).hexdigest() != entry.sha256:
            raise BakedError(f"{entry.file} does not have the checksum it was written with")
        devices = list(mesh.devices.flat)
        try:
            loaded: jax.stages.Compiled = serialize_executable.deserialize_and_load(
                payload,
                lowered.in_tree,
                lowered.out_tree,
                backend=devices[0].client,
                execution_devices=devices,
            )
            return loaded
        except Exception as error:
            # Whatever a foreign executable raises, the server can still compile the program.
            raise BakedError(f"{entry.file} cannot be loaded: {error}") from error


@dataclass(slots=True)
class BakedCounts:
    """The counts of one start. `saved_seconds` is the compile time of the hits minus their load."""

    hits: int = 0
    misses: int = 0
    saved_seconds: float = 0.0


class Compiler:
    """Makes a mesh's programs, from baked ones where a folder has them. Threads may share it."""

    def __init__(
        self,
        mesh: Mesh,
        folder: BakedFolder | None = None,
        options: CompilerOptions | None = None,
    ) -> None:
        self._mesh, self._folder = mesh, folder
        self._options = options or CompilerOptions()
        self._lock = threading.Lock()
        self.counts = BakedCounts()

    def compile(self, name: ProgramName, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        """Load the program from the folder, or compile it."""
        options = self._options.of(name)
        if self._folder is None:
            return lowered.compile(compiler_options=options)
        spelled, started = spell(name), time.monotonic()
        try:
            entry = self._folder.find(spelled, program_key(lowered, self._mesh, options))
            loaded = self._folder.load(entry, lowered, self._mesh)
        except BakedError as error:
            _log.warning("compiling program %s instead of loading it: %s", spelled, error)
            with self._lock:
                self.counts.misses += 1
            return lowered.compile(compiler_options=options)
        with self._lock:
            self.counts.hits += 1
            self.counts.saved_seconds += entry.compile_seconds - (time.monotonic() - started)
        return loaded


def spell(name: ProgramName) -> str:
    """The name of a program in files and reports: decode-64, mixed-2048x256,
    verify-32x8, pick-64, set_slot."""
    if isinstance(name, PickSize):
        return f"pick-{name.num_rows}"
    if not isinstance(name, Bucket):
        return name
    if name.num_drafts:
        return f"verify-{name.num_tokens}x{name.num_rows}"
    if name.decode_only:
        return f"decode-{name.num_rows}"
    return f"mixed-{name.num_tokens}x{name.num_rows}"


def program_key(
    lowered: jax.stages.Lowered, mesh: Mesh, options: Mapping[str, int] | None = None
) -> ProgramKey:
    """The key of a lowered program for these devices, this software and these options."""
    is_tpu = mesh.devices.flat[0].platform == "tpu"
    return ProgramKey(
        jax=jax.__version__,
        jaxlib=importlib.metadata.version("jaxlib"),
        libtpu=importlib.metadata.version("libtpu") if is_tpu else "",
        flags=_flags(os.environ),
        topology=_topology(mesh),
        program=hashlib.sha256(lowered.as_text().encode()).hexdigest(),
        options=spell_options(options or {}),
    )


def _flags(environment: Mapping[str, str]) -> str:
    return " ".join(" ".join(sorted(environment.get(name, "").split())) for name in _FLAGS).strip()


def _topology(mesh: Mesh) -> str:
    devices = list(mesh.devices.flat)
    shape = "x".join(map(str, mesh.devices.shape))
    ids = ",".join(str(device.id) for device in devices)
    kind = _host_processor() if devices[0].platform == "cpu" else devices[0].device_kind
    return f"{devices[0].platform} {kind} mesh {shape} devices {ids}"


def _host_processor() -> str:
    """The processor's architecture and instruction sets, since code for one may fail on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {hashlib.sha256(features.encode()).hexdigest()[:16]}"


def _read_manifest(path: Path) -> list[BakedProgram]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[BakedProgram])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        _log.warning("ignoring the baked programs: %s cannot be read: %s", path, error)
        return []


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the whole file or no file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
