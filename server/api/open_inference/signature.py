"""The tensors that the model takes and gives, as metadata and configuration list them.

Names follow Triton's backends of vLLM and TensorRT-LLM. Knows no requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

SERVER_NAME = "antipode"
PLATFORM = "antipode_jax"
EXTENSIONS = (
    "binary_tensor_data",
    "generate",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """`shape` has -1 where a size varies. A request may leave out an optional input."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    is_optional: bool = False


TEXT, TOKENS = "text_input", "input_ids"
SAMPLING, STREAM, EXCLUDES_INPUT = "sampling_parameters", "stream", "exclude_input_in_output"
# A request has either of the first two.
INPUTS = (
    TensorSpec(TEXT, "BYTES", (-1,), is_optional=True),
    TensorSpec(TOKENS, "INT32", (-1, -1), is_optional=True),
    TensorSpec(SAMPLING, "BYTES", (1,), is_optional=True),
    TensorSpec(STREAM, "BOOL", (1,), is_optional=True),
    TensorSpec(EXCLUDES_INPUT, "BOOL", (1,), is_optional=True),
    TensorSpec("max_tokens", "INT32", (1,), is_optional=True),
    TensorSpec("temperature", "FP32", (1,), is_optional=True),
    TensorSpec("top_p", "FP32", (1,), is_optional=True),
    TensorSpec("top_k", "INT32", (1,), is_optional=True),
    TensorSpec("seed", "INT64", (1,), is_optional=True),
)
OUTPUTS = (
    TensorSpec("text_output", "BYTES", (-1,)),
    TensorSpec("output_ids", "INT32", (-1, -1)),
    TensorSpec("num_output_tokens", "UINT32", (-1,)),
    TensorSpec("num_input_tokens", "UINT32", (-1,)),
    TensorSpec("finish_reason", "BYTES", (-1,)),
    TensorSpec("index", "UINT32", (-1,)),
)
OUTPUT_NAMES = tuple(spec.name for spec in OUTPUTS)


def config_type(spec: TensorSpec) -> str:
    """A datatype as configurations spell it."""
    return "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"


def release() -> str:
    """The release of the server."""
    return version("antipode-server")
