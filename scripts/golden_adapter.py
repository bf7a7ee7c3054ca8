"""Makes the reference outputs of a low-rank adapter with PEFT, in float32 on a CPU.

`make golden` runs this script after `scripts.golden`, in the same environment. It writes the
adapter as PEFT saves it, with ranks and alphas that differ by module. Shares no code with the
server.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tests.golden import random_models

FOLDER = Path("tests/golden/adapter")
MODEL = "llama3-tied"
NUM_PROMPTS, NUM_TOKENS = 4, 12


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = random_models.write(MODEL, Path(scratch))
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        shutil.rmtree(FOLDER, ignore_errors=True)
        adapted(model).save_pretrained(FOLDER)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        # What the saved files say is what counts.
        write_reference(PeftModel.from_pretrained(model, FOLDER).eval())
    (FOLDER / "README.md").unlink()


def adapted(model: torch.nn.Module) -> PeftModel:
    config = LoraConfig(
        r=4,
        lora_alpha=12,
        target_modules=[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ],
        rank_pattern={"q_proj": 2, "layers.1.mlp.down_proj": 3},
        alpha_pattern={"mlp.up_proj": 5},
        use_rslora=True,
        # Random matrices: by default, an untrained adapter adds nothing.
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        base_model_name_or_path=MODEL,
    )
    found = get_peft_model(model, config)
    found.peft_config["default"].base_model_name_or_path = MODEL
    return found


@torch.no_grad()
def write_reference(model: PeftModel) -> None:
    """Write `logits.npz`: prompts [P, T] and the logits [P, T, V] of every position."""
    long = [p for p in random_models.prompts(MODEL) if len(p) >= NUM_TOKENS]
    prompts = np.array([p[:NUM_TOKENS] for p in long[:NUM_PROMPTS]])
    logits = model(torch.from_numpy(prompts)).logits.numpy()
    np.savez_compressed(FOLDER / "logits.npz", prompts=prompts, logits=logits)
    print(f"adapter: {(FOLDER / 'logits.npz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
