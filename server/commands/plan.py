"""`antipode plan`: its flags, the environment that libtpu needs, and its output.

This module imports no JAX, because a slice's environment must be set before JAX is imported. Every
error is reported in one sentence. The exit code is 0 if the model fits, 1 if it does not fit, and
2 for a wrong use.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from server.config.engine_config import EngineConfig
from server.plan.progress import ProgressLines
from server.plan.slice_types import SliceError, SliceType, check_packages, find_slice, slice_names

if TYPE_CHECKING:
    from models.config import ModelConfig
    from server.plan.request import PlanRequest

_USAGE_ERROR = 2

DESCRIPTION = """\
Compile the server's own programs for a slice that is not here, and report whether the model fits,
how much KV cache is left and how long its steps take by the compiler's estimate. Needs no TPU and
no weights.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `antipode plan`. Flags that `serve` also has mean the same in both."""
    parser.add_argument("model", metavar="MODEL", help="a preset, or a checkpoint directory")
    parser.add_argument(
        "--slice", required=True, help=f"one of {', '.join(slice_names())}, or cpu for this machine"
    )
    parser.add_argument("--max-num-seqs", type=_positive, default=256, metavar="N")
    parser.add_argument(
        "--context", type=_positive, default=2048, metavar="N",
        help="tokens of each sequence, and the server's max_model_len (default: 2048)",
    )  # fmt: skip
    parser.add_argument("--max-num-batched-tokens", type=int, default=0, metavar="N")
    parser.add_argument("--tensor-parallel-size", type=int, default=0, metavar="N")
    parser.add_argument("--max-loras", type=int, default=0, metavar="N")
    parser.add_argument("--max-lora-rank", type=int, default=16, metavar="N")
    parser.add_argument(
        "--max-images-per-prompt", type=int, metavar="N",
        default=EngineConfig().max_images_per_prompt,
    )  # fmt: skip
    parser.add_argument("--block-size", type=int, default=0, metavar="N")
    parser.add_argument("--num-blocks", type=int, default=0, metavar="N")
    parser.add_argument("--hbm-utilization", type=float, default=0.9, metavar="PART")
    parser.add_argument("--kv-dtype", choices=("auto", "bfloat16", "fp8", "int8"), default="auto")
    parser.add_argument("--weight-dtype", choices=("auto", "int8", "float"), default="auto")
    parser.add_argument("--jobs", type=_positive, default=1, help="programs to compile at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--dump-hlo", type=Path, metavar="DIR", help="write each program's HLO")
    parser.add_argument(
        "--bake", type=Path, metavar="DIR",
        help="keep the compiled programs for a server started with --baked-dir",
    )  # fmt: skip
    parser.add_argument(
        "--compiler-options", default="", metavar="OPTIONS",
        help="options of XLA's compiler by kind of step, as `serve` takes them",
    )  # fmt: skip
    parser.add_argument(
        "--tune", type=Path, metavar="FILE",
        help="try options of XLA's compiler, and write what helps as a file for `serve --config`",
    )  # fmt: skip
    parser.add_argument(
        "--search", action="store_true", help="find the best splits, dtypes and batch sizes"
    )
    parser.add_argument(
        "--target-ms", type=float, default=0.0, metavar="MS",
        help="with --search: the longest step; searches for the most tokens per second within it",
    )  # fmt: skip
    parser.add_argument(
        "--target-tokens-per-s", type=float, default=0.0, metavar="RATE",
        help="with --search: a rate of the whole slice; searches for the shortest step reaching it",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Make the plan and print it. Returns the exit code."""
    try:
        where = find_slice(arguments.slice)
        check_packages(where)
    except (SliceError, ModuleNotFoundError) as error:
        return _fail(str(error))
    where.set_environment(os.environ)
    return _run(arguments, where)


def _run(arguments: argparse.Namespace, where: SliceType) -> int:
    from models.checkpoint.checkpoint import CheckpointError
    from server.versions.served_model import ModelNotFoundError

    try:
        request = _read_request(arguments, where)
        if arguments.tune:
            return _tune(arguments, request)
        return _search(arguments, request) if arguments.search else _plan(arguments, request)
    except (ModelNotFoundError, CheckpointError, ValueError) as error:
        # Wrong configurations, meshes, backends and sizes are all ValueErrors with one sentence.
        return _fail(str(error))


def _plan(arguments: argparse.Namespace, request: PlanRequest) -> int:
    from server.engine.programs.baked import BakedFolder
    from server.plan.compilation import Keep
    from server.plan.plan import make_plan
    from server.plan.report import render

    baked = BakedFolder(arguments.bake) if arguments.bake else None
    report = make_plan(
        request,
        jobs=arguments.jobs,
        keep=Keep(hlo_dir=arguments.dump_hlo, baked=baked),
        progress=ProgressLines(),
    )
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    print(render(report), end="")
    if baked is not None and report.fits:
        print(f"  --baked-dir {arguments.bake}")
    return 0 if report.fits else 1


def _tune(arguments: argparse.Namespace, request: PlanRequest) -> int:
    from server.config.compiler_options import spell_compiler_options
    from server.plan.compilation import Keep, OutOfMemoryError
    from server.plan.plan import largest_steps
    from server.plan.result_store import RESULTS, ResultStore
    from server.plan.tuning import render_trial, tune

    if not request.slice.chip.clock_hz:
        return _fail(f"--tune needs a slice of TPUs, and --slice is {request.slice.name}")
    if arguments.tune.exists():
        return _fail(f"{arguments.tune} exists; --tune writes a new file, so name another")
    try:
        found = tune(
            request,
            largest_steps(request),
            Keep(results=ResultStore(RESULTS)),
            lambda trial: print(render_trial(trial), flush=True),
        )
    except OutOfMemoryError as error:
        return _fail(f"{error}; see what fits by `antipode plan` without --tune")
    spelled = spell_compiler_options(found)
    arguments.tune.write_text(f'compiler_options: "{spelled}"\n', encoding="utf-8")
    print(f"--compiler-options {spelled}")
    return 0


def _search(arguments: argparse.Namespace, request: PlanRequest) -> int:
    from server.plan.search import Target, render_found, search

    target = Target(step_ms=arguments.target_ms, tokens_per_s=arguments.target_tokens_per_s)
    found = search(request, target, ProgressLines())
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    if not found:
        print("nothing fits")
        return 1
    print(render_found(found), end="")
    return 0 if found[0].meets_target else 1


def _read_request(arguments: argparse.Namespace, where: SliceType) -> PlanRequest:
    from server.engine.programs.blueprint.image_sizes import served_config
    from server.plan.request import PlanRequest

    model, config = _find_config(arguments.model)
    if arguments.context > config.max_position:
        raise ValueError(
            f"context is {arguments.context}; {model} allows {config.max_position} at most"
        )
    engine = EngineConfig(
        model=model,
        max_num_seqs=arguments.max_num_seqs,
        max_model_len=arguments.context,
        kv_context=arguments.context,
        max_num_batched_tokens=arguments.max_num_batched_tokens,
        max_loras=arguments.max_loras,
        max_lora_rank=arguments.max_lora_rank,
        max_images_per_prompt=arguments.max_images_per_prompt,
        tensor_parallel_size=arguments.tensor_parallel_size,
        block_size=arguments.block_size,
        num_blocks=arguments.num_blocks,
        hbm_utilization=arguments.hbm_utilization,
        kv_dtype=arguments.kv_dtype,
        weight_dtype=arguments.weight_dtype,
        compiler_options=arguments.compiler_options,
    )
    return PlanRequest(
        model=model,
        config=served_config(config, engine),
        slice=where,
        engine=engine,
        context=arguments.context,
    )


def _find_config(model: str) -> tuple[str, ModelConfig]:
    """The configuration of a preset, or of a checkpoint's folder."""
    from models.huggingface.config_file import read_config
    from models.presets import load_preset, preset_names
    from server.versions.served_model import ModelNotFoundError, find_model

    if model in preset_names():
        return model, load_preset(model).config
    try:
        found = find_model(EngineConfig(model=model))
    except ModelNotFoundError as error:
        presets = ", ".join(preset_names())
        raise ModelNotFoundError(f"{error}; presets are {presets}") from error
    return str(found.path), read_config(found.path)


def _fail(sentence: str) -> int:
    print(f"antipode plan: {sentence}", file=sys.stderr)
    return _USAGE_ERROR


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return value
