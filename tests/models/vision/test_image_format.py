"""What stands for an image in a checkpoint's prompts, read from its files."""

from __future__ import annotations

import json

import pytest

from models.image_sizes import CellSizes, SquareSizes
from models.vision.image_format import ImageFormatError, read_image_format

CONFIG = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 7,
    "eoi_token_index": 8,
    "image_token_index": 9,
    "mm_tokens_per_image": 4,
    "vision_config": {"image_size": 32},
}
TOKENS = {
    "added_tokens": [
        {"id": 7, "content": "<start_of_image>"},
        {"id": 8, "content": "<end_of_image>"},
        {"id": 9, "content": "<image_soft_token>"},
    ]
}
PREPROCESSOR = {"size": {"height": 32, "width": 32}, "resample": 2, "do_pan_and_scan": None}


@pytest.fixture
def written(tmp_path):
    """Writes a checkpoint's files; a file of None is not there."""

    def write(config=CONFIG, tokenizer=TOKENS, **files):
        for name, fields in {"config": config, "tokenizer": tokenizer, **files}.items():
            if fields is not None:
                (tmp_path / f"{name}.json").write_text(json.dumps(fields))
        return tmp_path

    return write


def test_an_image_is_soft_tokens_between_two_others(written):
    form = read_image_format(written())
    assert (form.sizes, form.resample) == (SquareSizes(32, 4), 2)
    assert form.token_id == 9
    assert form.placeholder == "<start_of_image>"
    soft = "<image_soft_token>" * 4
    assert form.expansion(4) == f"\n\n<start_of_image>{soft}<end_of_image>\n\n"


@pytest.mark.parametrize("name", ["Gemma3ForCausalLM", "LlamaForCausalLM"])
def test_a_model_of_text_has_no_images(written, name):
    assert read_image_format(written(CONFIG | {"architectures": [name]})) is None


def test_a_folder_without_a_configuration_has_no_images(tmp_path):
    assert read_image_format(tmp_path) is None


@pytest.mark.parametrize(
    "files",
    [
        {"preprocessor_config": PREPROCESSOR | {"resample": 3}},
        {"processor_config": {"image_processor": PREPROCESSOR | {"resample": 3}}},
        {
            "processor_config": {"image_processor": PREPROCESSOR | {"resample": 3}},
            "preprocessor_config": PREPROCESSOR,
        },
    ],
    ids=["older files", "newer files", "newer files win"],
)
def test_the_processors_file_says_how_an_image_is_resized(written, files):
    assert read_image_format(written(**files)).resample == 3


def test_published_defaults_are_those_of_transformers(written):
    published = {"architectures": CONFIG["architectures"], "vision_config": {}}
    names = {255_999: "<start_of_image>", 256_000: "<end_of_image>", 262_144: "<image_soft_token>"}
    added = [{"id": number, "content": text} for number, text in names.items()]
    form = read_image_format(written(published, {"added_tokens": added}))
    assert (form.sizes, form.token_id) == (SquareSizes(896, 256), 262_144)


GEMMA4 = {"architectures": ["Gemma4ForConditionalGeneration"]}
GEMMA4_TOKENS = {
    "added_tokens": [
        {"id": 255_999, "content": "<|image>"},
        {"id": 258_880, "content": "<|image|>"},
        {"id": 258_882, "content": "<image|>"},
    ]
}


def test_gemma_4_reads_images_in_cells(written):
    form = read_image_format(written(GEMMA4, GEMMA4_TOKENS))
    assert (form.sizes, form.resample, form.token_id) == (CellSizes(48, 280), 3, 258_880)
    assert form.placeholder == "<|image|>"
    assert form.expansion(3) == "<|image><|image|><|image|><|image|><image|>"


def test_gemma_4_s_files_say_how_large_an_image_may_be(written):
    config = GEMMA4 | {"vision_config": {"patch_size": 4, "pooling_kernel_size": 2}}
    processor = {"image_processor": {"max_soft_tokens": 70, "resample": 2}}
    form = read_image_format(written(config, GEMMA4_TOKENS, processor_config=processor))
    assert (form.sizes, form.resample) == (CellSizes(8, 70), 2)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"preprocessor_config": PREPROCESSOR | {"do_pan_and_scan": True}}, "do_pan_and_scan"),
        ({"preprocessor_config": PREPROCESSOR | {"do_resize": False}}, "do_resize"),
        ({"preprocessor_config": PREPROCESSOR | {"resample": 17}}, "resample is 17"),
        ({"preprocessor_config": {"size": {"shortest_edge": 32}}}, "reads 32 by 32 pixels"),
        ({"processor_config": {"image_seq_length": 5}}, "image_seq_length is 5"),
        ({"tokenizer": {"added_tokens": []}}, "no added token 7"),
        ({"tokenizer": None}, "no added token"),
        ({"config": CONFIG | {"mm_tokens_per_image": 0}}, "mm_tokens_per_image is 0"),
        ({"config": CONFIG | {"image_token_index": "9"}}, "image_token_index is '9'"),
    ],
)
def test_what_this_server_cannot_do_is_named(written, files, said):
    with pytest.raises(ImageFormatError, match=said):
        read_image_format(written(**files))
