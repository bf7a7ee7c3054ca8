"""From files to shards: every leaf in its place, and no more of it on the host than must be."""

from __future__ import annotations

import json
import weakref
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from models.checkpoint.checkpoint import Checkpoint, CheckpointError
from models.checkpoint.files import LocalFiles
from models.checkpoint.version_folder import open_version
from models.huggingface.config_file import parse_config
from models.sharding import make_mesh
from models.weights.loading import (
    WeightLoader,
    abstract_decoder,
    leaf_shardings,
    load_leaves,
    random_leaves,
)
from tests.golden import random_models
from tests.models.checkpoints import LLAMA, random_tensors, write_checkpoint
from tests.models.paged import make_layout
from tests.models.quantized.encoding import FORMATS

FAMILIES = {
    "llama": LLAMA,
    "untied": LLAMA | {"tie_word_embeddings": False},
    "qwen2": LLAMA | {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": LLAMA | {"architectures": ["Qwen3ForCausalLM"], "head_dim": 16},
    "one layer": LLAMA | {"num_hidden_layers": 1},
    "gemma3": random_models.CONFIGS["gemma3"],
    "gemma4": random_models.CONFIGS["gemma4"],
    "gemma4-moe": random_models.CONFIGS["gemma4-moe"],
    "qwen3-moe": random_models.CONFIGS["qwen3-moe"],
}
BF16, INT8 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.int8)


def make_model(hf=LLAMA, size=1, num_ranks=1, **fields):
    config = parse_config(hf)
    layout = make_layout(tensor_size=size, **fields)
    return abstract_decoder(config, layout), layout, make_mesh(config, size, data_size=num_ranks)


def load(folder, hf=LLAMA, size=1, checkpoint=None, num_ranks=1, **fields):
    model, _, mesh = make_model(hf, size, num_ranks, **fields)
    return named(model, load_leaves(model, checkpoint or Checkpoint(folder), mesh))


def named(model, leaves):
    """By path, as in `layers.0.projections.q.kernel`."""
    paths = (".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model)))
    return dict(zip(paths, leaves, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folders = {}

    def find(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("checkpoint")
            if FAMILIES[name] is random_models.CONFIGS.get(name):
                random_models.write(name, folders[name])
            else:
                write_checkpoint(folders[name], FAMILIES[name])
        return folders[name]

    return find


@pytest.fixture(scope="module")
def tensors():
    return random_tensors(LLAMA)


class TestTree:
    """What is loaded has the place, shape, dtype and sharding that the model declares."""

    @pytest.mark.parametrize("name", FAMILIES)
    @pytest.mark.parametrize("stacked", [False, True], ids=["listed", "stacked"])
    @pytest.mark.parametrize("size", [1, 4])
    def test_weights_of_every_family_load_on_every_mesh(self, folder, name, stacked, size):
        model, _, mesh = make_model(FAMILIES[name], size, stacked=stacked)
        self.check(model, load_leaves(model, Checkpoint(folder(name)), mesh), mesh)

    @pytest.mark.parametrize("fields", [{"dtype": BF16}, {"quantized": True}, {"kv_dtype": INT8}])
    def test_weights_of_every_dtype_load(self, folder, fields):
        model, _, mesh = make_model(size=2, **fields)
        self.check(model, load_leaves(model, Checkpoint(folder("llama")), mesh), mesh)

    @pytest.mark.parametrize("fields", [{"stacked": True}, {"quantized": True}])
    def test_random_weights_are_no_different(self, fields):
        model, layout, mesh = make_model(FAMILIES["one layer"], 2, **fields)
        drawn = random_leaves(model.config, layout, mesh)
        self.check(model, drawn, mesh)
        assert all(map(np.array_equal, drawn, random_leaves(model.config, layout, mesh)))

    def check(self, model, leaves, mesh):
        declared = [variable for _, variable in nnx.to_flat_state(nnx.state(model))]
        shardings = leaf_shardings(model, mesh)
        for leaf, variable, sharding in zip(leaves, declared, shardings, strict=True):
            assert (leaf.shape, leaf.dtype) == (variable.shape, variable.dtype)
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)

    @pytest.mark.parametrize("name", FAMILIES)
    @pytest.mark.parametrize("size", [1, 4])
    @pytest.mark.parametrize("fields", [{}, {"quantized": True}], ids=["float", "int8"])
    def test_a_stack_holds_what_the_list_holds(self, folder, name, size, fields):
        listed = load(folder(name), FAMILIES[name], size, **fields)
        stacked = load(folder(name), FAMILIES[name], size, stacked=True, **fields)
        stacks = make_layout(stacked=True).stacks(parse_config(FAMILIES[name]))
        compared = set()
        for path, leaf in stacked.items():
            if not path.startswith("layers."):
                assert_array_equal(leaf, listed[path])
                compared.add(path)
                continue
            _, stack, rest = path.split(".", 2)
            for layer, part in zip(stacks[int(stack)], leaf, strict=True):
                assert_array_equal(part, listed[f"layers.{layer}.{rest}"])
                compared.add(f"layers.{layer}.{rest}")
        assert compared == set(listed)


class TestShards:
    """A shard's bytes are the checkpoint's, cut and joined by head."""

    HEAD_DIM, KV_HEADS = 8, 4

    def projection(self, tensors, letter):
        """[heads, H, D], with the norm before it folded in as it is at loading."""
        name = "model.layers.0."
        weight = tensors[f"{name}self_attn.{letter}_proj.weight"]
        return (weight * tensors[f"{name}input_layernorm.weight"]).reshape(-1, self.HEAD_DIM, 64)

    @pytest.mark.parametrize("size", [1, 2, 4, 8])
    def test_keys_and_values_lie_by_head_and_are_repeated_beyond_their_number(
        self, folder, tensors, size
    ):
        leaf = load(folder("llama"), size=size)["layers.0.projections.kv.kernel"]
        k, v = self.projection(tensors, "k"), self.projection(tensors, "v")
        local = max(1, self.KV_HEADS // size)
        for i, shard in enumerate(leaf.addressable_shards):
            first = i * self.KV_HEADS // size
            own = slice(first, first + local)
            expected = np.stack([k[own], v[own]], axis=1).reshape(-1, 64).T
            assert_array_equal(shard.data, expected)

    @pytest.mark.parametrize("size", [1, 2, 8])
    def test_a_shard_has_the_queries_of_its_keys(self, folder, tensors, size):
        leaf = load(folder("llama"), size=size)["layers.0.projections.q.kernel"]
        heads = np.split(self.projection(tensors, "q"), size)
        for shard, own in zip(leaf.addressable_shards, heads, strict=True):
            assert_array_equal(shard.data, own.reshape(-1, 64).T)

    @pytest.mark.parametrize("size", [1, 2, 8])
    def test_gate_and_up_lie_side_by_side_within_a_shard(self, folder, tensors, size):
        leaf = load(folder("llama"), size=size)["layers.1.mlp.gate_up.kernel"]
        norm = tensors["model.layers.1.post_attention_layernorm.weight"]
        gate, up = (
            np.split(tensors[f"model.layers.1.mlp.{half}_proj.weight"] * norm, size)
            for half in ("gate", "up")
        )
        for i, shard in enumerate(leaf.addressable_shards):
            assert_array_equal(shard.data, np.concatenate([gate[i], up[i]]).T)

    @pytest.mark.parametrize("size", [1, 2, 8])
    def test_the_vocabulary_is_padded_with_zeros_to_even_shards(self, folder, tensors, size):
        leaf = load(folder("llama"), size=size)["embedding.table"]
        assert leaf.shape[0] % (size * 128) == 0
        assert_array_equal(leaf[:300], tensors["model.embed_tokens.weight"])
        assert not leaf[300:].any()

    def test_input_axes_are_split_for_products_that_are_added_up(self, folder, tensors):
        leaves = load(folder("llama"), size=4)
        for path, name in (
            ("layers.0.projections.output.kernel", "model.layers.0.self_attn.o_proj.weight"),
            ("layers.0.mlp.down.kernel", "model.layers.0.mlp.down_proj.weight"),
        ):
            parts = np.split(tensors[name].T, 4)
            for shard, part in zip(leaves[path].addressable_shards, parts, strict=True):
                assert_array_equal(shard.data, part)


class WatchedCheckpoint(Checkpoint):
    """A checkpoint that knows how many of the bytes it gave out are still held."""

    def __init__(self, folder):
        super().__init__(folder)
        self.held = self.most_held = self.largest = self.total = 0

    def read(self, *args):
        value = super().read(*args)
        self.held += value.nbytes
        self.total += value.nbytes
        self.most_held = max(self.most_held, self.held)
        self.largest = max(self.largest, value.nbytes)
        weakref.finalize(value, self._release, value.nbytes)
        return value

    def _release(self, num_bytes):
        self.held -= num_bytes


class TestHostMemory:
    @pytest.mark.parametrize("stacked", [False, True], ids=["listed", "stacked"])
    @pytest.mark.parametrize("size", [1, 4])
    def test_one_layers_shard_is_held_at_a_time(self, tmp_path, stacked, size):
        hf = LLAMA | {"intermediate_size": 512}
        write_checkpoint(tmp_path, hf)
        checkpoint = WatchedCheckpoint(tmp_path)
        # Another dtype than the stored one: none of what was read is the array that stays.
        load(tmp_path, hf, size, checkpoint, dtype=BF16, stacked=stacked)
        gate_and_up = 2 * 512 * 64 * 4 // size
        assert checkpoint.most_held == gate_and_up
        assert checkpoint.held == 0

    def test_no_shard_reads_what_belongs_to_another(self, tmp_path):
        write_checkpoint(tmp_path, LLAMA)
        checkpoint = WatchedCheckpoint(tmp_path)
        load(tmp_path, size=4, checkpoint=checkpoint)
        assert checkpoint.largest == 128 * 64 * 4  # a shard of the vocabulary

    @pytest.mark.parametrize("stacked", [False, True], ids=["listed", "stacked"])
    def test_all_ranks_of_a_host_are_filled_by_one_reading(self, tmp_path, stacked):
        write_checkpoint(tmp_path, LLAMA)
        one, several = WatchedCheckpoint(tmp_path), WatchedCheckpoint(tmp_path)
        expected = load(tmp_path, size=2, checkpoint=one, stacked=stacked)
        leaves = load(tmp_path, size=2, checkpoint=several, num_ranks=3, stacked=stacked)
        assert several.total == one.total
        for path, leaf in leaves.items():
            assert_array_equal(leaf, expected[path])
            assert len(leaf.addressable_shards) == 6


class TestRefusal:
    def broken(self, tmp_path, change):
        write_checkpoint(tmp_path)
        tensors = random_tensors(LLAMA)
        change(tensors)
        save_file(tensors, tmp_path / "model.safetensors")
        checkpoint = WatchedCheckpoint(tmp_path)
        with pytest.raises(CheckpointError) as error:
            load(tmp_path, checkpoint=checkpoint)
        assert checkpoint.largest == 0, "nothing is read before all is checked"
        return str(error.value)

    def test_a_missing_tensor_is_named_before_anything_is_read(self, tmp_path):
        name = "model.layers.1.mlp.down_proj.weight"
        assert f"tensor {name} is missing" in self.broken(tmp_path, lambda t: t.pop(name))

    def test_a_tensor_of_another_models_shape_is_named(self, tmp_path):
        name = "model.layers.0.self_attn.k_proj.weight"
        message = self.broken(tmp_path, lambda t: t.update({name: t[name][:16].copy()}))
        assert f"tensor {name} has shape [16, 64], but config.json asks for [32, 64]" in message

    def test_integers_are_not_taken_for_weights(self, tmp_path):
        name = "model.norm.weight"
        message = self.broken(tmp_path, lambda t: t.update({name: t[name].astype(np.int8)}))
        assert f"tensor {name} is stored as I8" in message


def test_progress_is_told_to_the_end(folder):
    told = []
    model, _, mesh = make_model()
    load_leaves(model, Checkpoint(folder("llama")), mesh, lambda *args: told.append(args))
    assert {detail for detail, _ in told} == {"loading weights"}
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


class TestAnotherVersion:
    """The same loader, other weights: nothing is compiled, and they can change places."""

    @pytest.fixture
    def other(self, tmp_path):
        write_checkpoint(tmp_path, LLAMA, seed=1)
        return tmp_path

    @pytest.fixture(params=[(1, 1), (1, 4), (2, 2)], ids=["1x1", "1x4", "2x2"])
    def mesh_sizes(self, request):
        return request.param

    @pytest.fixture(params=[False, True], ids=["listed", "stacked"])
    def loader(self, request, mesh_sizes):
        num_ranks, size = mesh_sizes
        model, _, mesh = make_model(size=size, num_ranks=num_ranks, stacked=request.param)
        return WeightLoader(model, mesh)

    def test_a_second_load_compiles_nothing(self, loader, folder, other):
        first = loader.load(Checkpoint(folder("llama")))
        with no_compilation():
            second = loader.load(Checkpoint(other))
        assert not all(map(np.array_equal, first, second))

    def test_what_is_staged_is_what_would_be_loaded(self, loader, folder, other):
        expected = [np.asarray(leaf) for leaf in loader.load(Checkpoint(other))]
        leaves = loader.load(Checkpoint(folder("llama")))
        before = [np.asarray(leaf) for leaf in leaves]
        staged = loader.stage(Checkpoint(other))
        shardings = [leaf.sharding for leaf in leaves]
        with no_compilation():
            loader.exchange(leaves, staged)
        for leaf, wanted, sharding in zip(leaves, expected, shardings, strict=True):
            assert_array_equal(leaf, wanted)
            assert leaf.sharding == sharding
        loader.exchange(leaves, staged)
        for leaf, wanted in zip(leaves, before, strict=True):
            assert_array_equal(leaf, wanted)

    @pytest.mark.parametrize("name", ["gemma3", "gemma4-moe"])
    def test_layers_of_any_size_are_staged_as_they_are_loaded(self, folder, name):
        model, _, mesh = make_model(FAMILIES[name], 4, stacked=True)
        loader = WeightLoader(model, mesh)
        placed = loader.place(loader.stage(Checkpoint(folder(name))))
        for leaf, wanted in zip(placed, loader.load(Checkpoint(folder(name))), strict=True):
            assert_array_equal(leaf, wanted)

    def test_staging_takes_what_it_says(self, loader, other):
        staged = loader.stage(Checkpoint(other))
        arrays = {id(array): array for leaf in staged for array in leaf}
        assert sum(array.nbytes for array in arrays.values()) == loader.host_bytes

    def test_staging_takes_no_more_for_more_ranks(self):
        model, _, one = make_model(size=2)
        _, _, several = make_model(size=2, num_ranks=3)
        assert WeightLoader(model, several).host_bytes == WeightLoader(model, one).host_bytes
        assert WeightLoader(model, several).device_bytes == WeightLoader(model, one).device_bytes


@contextmanager
def no_compilation():
    compiled = []

    def on_duration(event, duration_secs, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(on_duration)
    yield
    assert compiled == []


@pytest.mark.parametrize("size", [1, 4])
def test_experts_that_transformers_joined_are_those_of_single_tensors(tmp_path, folder, size):
    hf, weights = FAMILIES["qwen3-moe"], random_models.weights("qwen3-moe")
    single = {name: value for name, value in weights.items() if ".experts." in name}
    joined = {name: value for name, value in weights.items() if name not in single}
    for layer in range(hf["num_hidden_layers"]):
        name = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            np.stack([single[f"{name}.{e}.{kind}_proj.weight"] for e in range(hf["num_experts"])])
            for kind in ("gate", "up", "down")
        )
        joined[f"{name}.gate_up_proj"] = np.concatenate([gate, up], axis=1)
        joined[f"{name}.down_proj"] = down
    save_file(joined, tmp_path / "model.safetensors")
    expected = load(folder("qwen3-moe"), hf, size)
    for path, leaf in load(tmp_path, hf, size).items():
        assert_array_equal(leaf, expected[path])


VISION = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "text_config": {key: LLAMA[key] for key in LLAMA if key != "architectures"},
}


class TestTied:
    """Where embedding and head are one matrix, a file may name it either way, or both ways."""

    EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

    def test_a_matrix_under_both_names_is_one(self, tmp_path, tensors):
        found = self.loaded(tmp_path, tensors | {self.HEAD: tensors[self.EMBEDDING]})
        assert_array_equal(found, tensors[self.EMBEDDING])

    def test_a_matrix_under_the_name_of_the_head_is_the_embedding_too(self, tmp_path, tensors):
        matrix = tensors[self.EMBEDDING]
        others = {name: value for name, value in tensors.items() if value is not matrix}
        assert_array_equal(self.loaded(tmp_path, others | {self.HEAD: matrix}), matrix)
        renamed = (name.replace("model.", "model.language_model.") for name in others)
        vision = dict(zip(renamed, others.values(), strict=True))
        assert_array_equal(self.loaded(tmp_path, vision | {self.HEAD: matrix}, VISION), matrix)

    @pytest.mark.parametrize("row", [0, 299])
    def test_two_matrices_are_refused_by_name(self, tmp_path, tensors, row, monkeypatch):
        monkeypatch.setattr("models.checkpoint.checkpoint._COMPARED", 7 * 64)
        other = tensors[self.EMBEDDING].copy()
        other[row, 5] += 1
        with pytest.raises(CheckpointError, match=r"tie_word_embeddings.*both .*differ: set"):
            self.loaded(tmp_path, tensors | {self.HEAD: other})
        with pytest.raises(CheckpointError, match=r"lm_head.weight has shape \[2, 64\]"):
            self.loaded(tmp_path, tensors | {self.HEAD: other[:2]})

    def test_a_head_that_an_embedder_does_not_have_is_left_over(self, tmp_path, tensors):
        save_file(tensors | {self.HEAD: np.ones((300, 64))}, tmp_path / "model.safetensors")
        hf = LLAMA | {"architectures": ["LlamaModel"]}
        (tmp_path / "config.json").write_text(json.dumps(hf))
        checkpoint = open_version(LocalFiles(tmp_path), tmp_path / "copy").checkpoint()
        found = load(tmp_path, checkpoint=checkpoint)["embedding.table"]
        assert_array_equal(found[:300], tensors[self.EMBEDDING])

    @staticmethod
    def loaded(folder, tensors, hf=LLAMA):
        save_file(tensors, folder / "model.safetensors")
        return load(folder, hf)["embedding.table"][:300]


class TestQuantized:
    """A model that is stored quantized is the model of the floats that its numbers stand for."""

    @pytest.mark.parametrize("name", ["compressed int8, rows", "fp8, blocks", "awq", "gptq"])
    @pytest.mark.parametrize("size", [1, 4])
    @pytest.mark.parametrize("fields", [{}, {"quantized": True}], ids=["float", "int8"])
    def test_every_leaf_is_that_of_the_floats(self, tmp_path, name, size, fields):
        floats, stored = self.written(tmp_path, name)
        expected = load(floats, size=size, **fields)
        found = load(stored, size=size, checkpoint=self.opened(stored), **fields)
        for path, leaf in found.items():
            np.testing.assert_allclose(leaf, expected[path], rtol=1e-6)

    @pytest.mark.parametrize("family", ["gemma4", "gemma4-unified"])
    def test_layers_without_a_matrix_for_values_are_read_too(self, tmp_path, family):
        hf = random_models.CONFIGS[family]
        floats, stored = self.written(
            tmp_path, "compressed w4a16", hf, random_models.weights(family)
        )
        expected = load(floats, hf, 4, stacked=True)
        found = load(stored, hf, 4, checkpoint=self.opened(stored), stacked=True)
        for path, leaf in found.items():
            np.testing.assert_allclose(leaf, expected[path], rtol=1e-6)

    @staticmethod
    def written(tmp_path, name, hf=LLAMA, weights=None):
        """The folders of the floats and of what is stored."""
        scheme, encode = FORMATS[name]
        rng = np.random.default_rng(3)
        floats, tensors = dict(weights or random_tensors(hf)), {}
        for full, value in floats.items():
            if not full.endswith("_proj.weight"):
                tensors[full] = value
                continue
            parts, matrix = encode(rng, *value.shape)
            floats[full] = np.ascontiguousarray(matrix)
            module = full.removesuffix("weight")
            tensors |= {module + suffix: np.ascontiguousarray(p) for suffix, p in parts.items()}
        for folder, written in (("floats", floats), ("stored", tensors)):
            (tmp_path / folder).mkdir()
            save_file(written, tmp_path / folder / "model.safetensors")
        config = hf | {"quantization_config": scheme}
        (tmp_path / "stored" / "config.json").write_text(json.dumps(config))
        return tmp_path / "floats", tmp_path / "stored"

    @staticmethod
    def opened(folder):
        return open_version(LocalFiles(folder), folder / "copy").checkpoint()
