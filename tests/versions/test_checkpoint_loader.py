"""Which folders may take the place of the version that is served. Nobody reads the weights."""

from __future__ import annotations

import pytest

from models.checkpoint import manifest
from models.checkpoint.manifest import Golden, GoldenPrompt
from models.checkpoint.tokenizer_files import tokenizer_sums
from server.engine.policy.sequences.sequence import LoadedVersion
from server.versions.checkpoint_loader import CheckpointLoader

GOLDEN = Golden(0.1, (GoldenPrompt((1, 2), (3,)),))
TWO = LoadedVersion("2", 1)
GIB = 1 << 30


class FakeWeightSets:
    """Takes every folder, and remembers where it was."""

    host_bytes = GIB

    def __init__(self):
        self.loaded, self.progress = {}, []

    def check(self, folder):
        if (folder.copy / "config.json").read_text() == '{"other": 1}':
            raise ValueError("another shape")

    def load(self, version, folder, progress):
        progress("weights", 0.5)
        assert (folder.copy / "config.json").exists()
        self.loaded[version] = folder.place

    def stage(self, folder, progress):
        progress("weights", 0.5)
        return [folder.place]


def write(folder, tokenizer="{}", golden=GOLDEN, is_published=True, generation="{}"):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text(tokenizer)
    (folder / "generation_config.json").write_text(generation)
    if is_published:
        manifest.write(folder, golden)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "2")


@pytest.fixture
def weights():
    return FakeWeightSets()


@pytest.fixture
def loader(weights, folder):
    return CheckpointLoader(weights, tokenizer_sums(folder), host_bytes=2 * GIB)


def test_a_version_is_loaded_with_its_golden_prompts(loader, weights, folder):
    seen = []
    assert loader.load(TWO, str(folder), seen.append) == GOLDEN
    assert weights.loaded == {TWO: str(folder)}
    assert seen == [0.5]


def test_a_version_is_staged_with_its_golden_prompts(loader, folder):
    seen = []
    assert loader.stage(str(folder), seen.append) == ([str(folder)], GOLDEN)
    assert seen == [0.5]


ACTS = {
    "inspect": lambda loader, path: loader.inspect(path),
    "load": lambda loader, path: loader.load(TWO, path, lambda _: None),
    "stage": lambda loader, path: loader.stage(path, lambda _: None),
}


@pytest.mark.parametrize("act", ACTS)
class TestRefusals:
    def refusal(self, loader, act, folder):
        with pytest.raises(ValueError) as error:
            ACTS[act](loader, str(folder))
        return str(error.value)

    def test_a_folder_without_a_manifest_may_be_half_written(self, loader, act, tmp_path):
        folder = write(tmp_path / "3", is_published=False)
        assert "has no antipode.json, so it may be half written" in self.refusal(
            loader, act, folder
        )

    def test_a_version_without_golden_prompts_cannot_be_proved(self, loader, act, tmp_path):
        folder = write(tmp_path / "3", golden=None)
        assert "has no golden prompts" in self.refusal(loader, act, folder)

    def test_the_tokenizer_must_be_the_one_that_is_served(self, loader, weights, act, tmp_path):
        folder = write(tmp_path / "3", tokenizer='{"other": 1}')
        message = self.refusal(loader, act, folder)
        assert "has another tokenizer than what is served (tokenizer.json)" in message
        assert weights.loaded == {}

    def test_the_sampling_defaults_must_be_those_that_are_served(self, loader, act, tmp_path):
        folder = write(tmp_path / "3", generation='{"eos_token_id": 1, "temperature": 0.6}')
        message = self.refusal(loader, act, folder)
        assert "has other sampling defaults than what is served (generation_config.json)" in message

    def test_a_changed_file_is_found_by_its_checksum(self, loader, act, folder):
        (folder / "config.json").write_text("[]")
        assert "config.json" in self.refusal(loader, act, folder)

    def test_a_folder_that_is_not_there_is_named(self, loader, act, tmp_path):
        assert f"{tmp_path}/9" in self.refusal(loader, act, tmp_path / "9")


def test_staging_needs_host_memory_for_the_weights_and_for_reading_them(weights, folder):
    loader = CheckpointLoader(weights, tokenizer_sums(folder), host_bytes=GIB + (255 << 20))
    with pytest.raises(ValueError, match=r"1\.00 GiB .* 0\.25 GiB to read them.*raise swap_host"):
        loader.stage(str(folder), lambda _: None)
    CheckpointLoader(weights, tokenizer_sums(folder), host_bytes=GIB + (256 << 20)).stage(
        str(folder), lambda _: None
    )


def test_another_shape_is_refused_before_any_room_is_made(loader, tmp_path):
    folder = write(tmp_path / "3", is_published=False)
    (folder / "config.json").write_text('{"other": 1}')
    manifest.write(folder, GOLDEN)
    with pytest.raises(ValueError, match="another shape"):
        loader.inspect(str(folder))


@pytest.mark.parametrize(
    ("num_gib", "num_staged", "num_leaving", "has_room"),
    [(2, 0, 0, True), (2, 1, 0, False), (2, 1, 1, True), (3, 1, 0, True), (1, 0, 0, False)],
)
def test_room_in_host_memory_is_for_all_that_stay(
    weights, folder, num_gib, num_staged, num_leaving, has_room
):
    loader = CheckpointLoader(weights, tokenizer_sums(folder), host_bytes=num_gib * GIB)
    if has_room:
        loader.check_room(num_staged, num_leaving)
    else:
        with pytest.raises(ValueError, match="may be used"):
            loader.check_room(num_staged, num_leaving)


def test_progress_may_end_a_load(loader, weights, folder):
    def stop(_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        loader.load(TWO, str(folder), stop)
    assert weights.loaded == {}
