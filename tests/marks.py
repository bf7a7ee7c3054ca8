"""Which tests carry which mark, in one table: `make unit` runs those that carry none.

A path stands for everything under it. A test may carry several marks. What compiles is also seen
while tests run: a test that compiles and is not marked fails. Knows no test by its name.
"""

from __future__ import annotations

import sys
from pathlib import PurePosixPath

MARKS = {
    "compiles": (
        "commands/test_plan.py",
        "commands/test_publish.py",
        "e2e/test_gemma4_requests.py",
        "e2e/test_image_requests.py",
        "e2e/test_images.py",
        "e2e/test_states.py",
        "engine/device/test_combinations.py",
        "engine/device/test_draws.py",
        "engine/device/test_embeddings.py",
        "engine/device/test_exact.py",
        "engine/device/test_host_prefixes.py",
        "engine/device/test_identity.py",
        "engine/device/test_images.py",
        "engine/device/test_pool_memory.py",
        "engine/device/test_resume.py",
        "engine/device/test_speculation.py",
        "engine/device/test_states.py",
        "engine/device/test_weight_sets.py",
        "engine/device/test_whole_prompts.py",
        "engine/device/test_windows.py",
        "engine/programs/test_baked.py",
        "engine/programs/test_block_programs.py",
        "engine/programs/sampling/test_filters.py",
        "engine/programs/sampling/test_noise.py",
        "engine/programs/sampling/test_pooling.py",
        "engine/programs/sampling/test_sampler.py",
        "engine/programs/sampling/test_sharded_vocab.py",
        "engine/programs/blueprint/test_chip_memory.py",
        "engine/programs/test_programs.py",
        "models/attention/test_later_tokens.py",
        "models/attention/test_xla.py",
        "models/cpu_kernels/test_attention.py",
        "models/cpu_kernels/test_model.py",
        "models/cpu_kernels/test_product.py",
        "models/decoder",
        "models/lora/test_parity.py",
        "models/training/test_export.py",
        "models/training/test_figures.py",
        "models/training/test_loss.py",
        "models/training/test_run.py",
        "models/training/test_tiny.py",
        "models/vision",
        "models/weights",
        "plan/test_compilation.py",
        "plan/test_plan.py",
        "plan/test_search.py",
    ),
    "processes": (
        "commands/test_slice.py",
        "e2e",
        "examples",
        "fuzz",
        "helm/test_served_pod.py",
        "k8s/clusters/kubelet/test_agent.py",
        "k8s/clusters/control_plane/test_admission.py",
        "k8s/lab/test_ends.py",
        "k8s/lab/test_losses.py",
        "k8s/terraform/test_plan.py",
        "k8s/terraform/test_settings.py",
        "k8s/test_fleet.py",
        "models/checkpoint/test_files.py",
        "models/checkpoint/test_mount.py",
        "models/cpu_kernels/test_instruction_sets.py",
        "models/gguf/test_checkpoint_folder.py",
    ),
    "demo": ("models/test_demo.py",),
    "long": (
        "api/anthropic/test_anthropic_client.py",
        "api/foreign_fields/test_checking.py",
        "api/http/test_schema.py",
        "api/images/test_conversations.py",
        "api/test_turns.py",
        "client/resilience/test_resuming.py",
        "client/test_malformed.py",
        "engine/policy/test_scheduler_properties.py",
        "engine/policy/test_without_arrays.py",
        "engine/programs/blueprint/test_image_sizes.py",
        "engine/programs/test_lowering.py",
        "models/cpu_kernels/test_library.py",
        "plan/test_suggestion.py",
        "processes/api/test_image_frames.py",
        "test_main.py",
        "test_marks.py",
        "test_threads.py",
        "versions/test_manager.py",
    ),
    "charts": (
        "helm",
        "k8s/clusters/control_plane/test_custom_resources.py",
        "k8s/clusters/test_machines.py",
        "k8s/lab/test_ends.py",
        "k8s/lab/test_losses.py",
        "k8s/lab/test_chart_numbers.py",
        "k8s/lab/test_proxy.py",
        "k8s/lab/test_report.py",
        "k8s/terraform/test_settings.py",
    ),
}


def marks_of(path: PurePosixPath) -> list[str]:
    """The marks of a test file, by its path under `tests`."""
    around = {str(path), *map(str, path.parents)}
    return [mark for mark, paths in MARKS.items() if around & set(paths)]


class CompilationCounter:
    """How many programs JAX has compiled or read from its cache, once something imported JAX."""

    def __init__(self) -> None:
        self.count = 0
        self._is_listening = False

    def listen(self) -> None:
        """Without importing JAX: tests run where it is not installed."""
        if self._is_listening or "jax" not in sys.modules:
            return
        sys.modules["jax"].monitoring.register_event_duration_secs_listener(self._on_event)
        self._is_listening = True

    def _on_event(self, name: str, _seconds: float, **_: object) -> None:
        self.count += name.endswith("/backend_compile_duration")
