"""A row with images and a low-rank adapter is computed as by the model with the adapter merged."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import save_file

from models.decoder.layout import AdapterSizes
from models.vision.step_images import StepImages
from tests.golden import random_models
from tests.models.adapters import merge, random_adapter, write_adapter
from tests.models.paged import PagedModel

NAME = "gemma3-images"
TOLERANCE = 1e-4


def test_an_adapter_changes_the_tokens_of_images_as_others(tmp_path):
    tensors = random_models.weights(NAME)
    of_text = {name: each for name, each in tensors.items() if name.startswith("language_model")}
    adapter = random_adapter(of_text, rank=4)
    folder = random_models.write(NAME, tmp_path / "model")
    merged = random_models.write(NAME, tmp_path / "merged")
    save_file(tensors | merge(of_text, adapter, 0.5), merged / "model.safetensors")
    slot = write_adapter(tmp_path / "adapter", adapter, rank=4, lora_alpha=2)

    prompt, starts = next(each for each in random_models.prompts_with_images(NAME) if each[1])
    pixels = random_models.pixels(NAME, len(starts))
    sizes = AdapterSizes(num_slots=1, rank=4)
    models = {
        "adapter": PagedModel(folder, 1, 64, adapter_folders=[slot], slots=[1], adapters=sizes),
        "merged": PagedModel(merged, 1, 64),
        "neither": PagedModel(folder, 1, 64),
    }
    logits = {}
    for name, model in models.items():
        rows = np.stack([model.encode(each) for each in pixels])
        logits[name] = model.prefill([prompt], StepImages(rows, np.array(starts)))[0]
    largest = np.abs(logits["merged"]).max()
    assert np.abs(logits["adapter"] - logits["merged"]).max() <= TOLERANCE * largest
    assert np.abs(logits["neither"] - logits["merged"]).max() > 100 * TOLERANCE * largest
