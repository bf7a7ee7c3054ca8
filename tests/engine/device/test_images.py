"""Prompts with images through the real engine: the tokens of transformers, however they were run.

Greedy tokens may differ from the reference only where its two best candidates lie within 1e-3; what
follows such a choice is compared no further.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from hashlib import blake2b

import msgspec
import pytest

from models.checkpoint.files import LocalFiles
from server.config.engine_config import EngineConfig
from server.config.setting import ConfigError
from server.engine.device.model_runner import ModelRunner
from server.engine.policy.sequences.loaded_adapter import LoadedAdapter
from server.engine.policy.speculation import speculation
from server.grammar.compiler import Compiler
from server.link.frames import Vocabulary
from server.link.images import PromptImage
from server.link.sampling import Grammar, SamplingParams
from tests.engine.device.test_identity import Request, Session
from tests.golden import image_model, random_models
from tests.golden.image_model import CELLS, NAME, NAMES
from tests.models.adapters import random_adapter, write_adapter

name, folder, reference = image_model.name, image_model.folder, image_model.reference

BOTH = pytest.mark.parametrize("name", NAMES, indirect=True)
NUM_TOKENS = 32
MARGIN = 1e-3
# An image has 16 tokens, or 13 to 20 where sizes differ; layers with windows look back over 12.
LIMITS = {
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "max_model_len": 320,
    "block_size": 4,
    "num_blocks": 400,
}
# Steps that hold one image: a program less, where several in a step are not the point.
ONE_IMAGE = {"max_num_batched_tokens": 32}


@pytest.fixture(scope="module")
def requests(name):
    return all_requests(name)


@pytest.fixture(scope="module")
def base(folder):
    return build(folder)


def all_requests(name):
    """Those of the reference, with their images."""
    prompts = random_models.prompts_with_images(name)
    pixels = random_models.pixels(name, sum(len(starts) for _, starts in prompts))
    sizes = [math.prod(random_models.grid(name, i)) for i in range(len(pixels))]
    images = iter(zip(pixels, sizes, strict=True))
    return [
        greedy(prompt, [image(*next(images), start) for start in starts])
        for prompt, starts in prompts
    ]


def image(pixels, num_tokens, start):
    content = pixels.tobytes()
    return PromptImage(
        start=start,
        num_tokens=num_tokens,
        height=pixels.shape[0],
        width=pixels.shape[1],
        pixels=content,
        digest=blake2b(content).digest(),
    )


def greedy(prompt, images, **options):
    params = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True, temperature=0.0)
    return Request(prompt, params, images=images, **options)


def build(folder, **settings):
    devices = {"tensor_parallel_size": 1, "data_parallel_size": 1}
    defaults = {"dtype": "float32", "block_size": 16, **devices}
    config = EngineConfig(model=str(folder), **(defaults | LIMITS | settings))
    return ModelRunner.build(folder, config), config


def check(reference, tokens, numbers=None):
    """Each request's tokens against the reference of that number."""
    for i, number in enumerate(numbers or range(len(reference.prompts))):
        found, expected = tokens[i, 0], reference.greedy_ids[number, :NUM_TOKENS].tolist()
        assert len(found) == NUM_TOKENS
        at = next((at for at in range(NUM_TOKENS) if found[at] != expected[at]), None)
        assert at is None or reference.margins[number, at] < MARGIN, (number, at)


@BOTH
@pytest.mark.parametrize("overlap", [True, False])
def test_tokens_are_those_of_transformers(base, reference, requests, overlap):
    check(reference, Session(*base, overlap=overlap).run(requests))


@pytest.mark.parametrize(("name", "step"), [(NAME, 24), (CELLS, 28)], indirect=["name"])
def test_nothing_but_an_image_and_its_neighbours_fits_into_a_step(
    folder, reference, requests, step
):
    runner, config = build(folder, max_num_batched_tokens=step)
    check(reference, Session(runner, config).run(requests))


@BOTH
def test_prefixes_with_images_are_found_again(base, reference, requests):
    session, few = Session(*base), requests[:9]
    session.run(few)
    check(reference, session.run(few), range(9))
    assert session.num_cached_tokens > sum(len(each.prompt) for each in few) / 2


@BOTH
def test_prompts_that_differ_only_in_their_images_share_nothing(base, reference, requests):
    i = next(i for i, request in enumerate(requests) if len(request.images) == 1)
    other = next(each.images[0] for each in requests[i + 1 :] if each.images)
    impostor = msgspec.structs.replace(
        requests[i].images[0], pixels=other.pixels, digest=other.digest
    )
    session = Session(*base)
    differing = session.run([replace(requests[i], images=[impostor])])
    check(reference, session.run([requests[i]]), [i])
    assert session.num_cached_tokens < requests[i].images[0].start + 1
    assert differing != session.run([requests[i]])


@BOTH
def test_preempted_prompts_are_read_again(base, reference, requests):
    session = Session(*base, num_blocks=90)
    check(reference, session.run(requests))
    assert session.observer.num_preempted > 0


@BOTH
def test_choices_share_their_prompt(base, reference, requests):
    several = [replace(request, n=3) for request in requests[:9]]
    tokens = Session(*base).run(several)
    check(reference, tokens, range(9))
    assert all(tokens[i, choice] == tokens[i, 0] for i in range(9) for choice in range(3))


@BOTH
def test_a_resumed_choice_gives_the_rest(base, reference, requests):
    tokens = Session(*base).run(requests[:6])
    resumed = [replace(r, received=[tokens[i, 0][:7]]) for i, r in enumerate(requests[:6])]
    rest = Session(*base).run(resumed)
    assert all(rest[i, 0] == tokens[i, 0][7:] for i in range(6))


@BOTH
@pytest.mark.parametrize(
    ("data_size", "tensor_size", "step"),
    [(1, 2, ONE_IMAGE), (1, 4, {}), (2, 1, ONE_IMAGE), (2, 2, {})],
    ids=["1-2", "1-4", "2-1", "2-2"],
)
def test_every_mesh_gives_the_same_tokens(
    folder, reference, requests, data_size, tensor_size, step
):
    sizes = {"data_parallel_size": data_size, "tensor_parallel_size": tensor_size}
    runner, config = build(folder, **sizes, **step)
    assert runner.num_ranks == data_size
    check(reference, Session(runner, config).run(requests[:12]), range(12))


@BOTH
def test_drafts_change_no_token(folder, reference, requests):
    runner, config = build(folder, speculation="prompt_lookup", **ONE_IMAGE)
    drafts = speculation(runner.draft_rooms, config.most_drafts)
    check(reference, Session(runner, config, speculation=drafts).run(requests[:12]), range(12))


def test_adapters_and_images_stay_apart(folder, reference, requests, tmp_path):
    """The same prompts by the model, by two adapters in one step, and from the prefix cache."""
    tensors = random_models.weights(NAME)
    of_text = {name: each for name, each in tensors.items() if name.startswith("language_model")}
    runner, config = build(folder, max_loras=2, max_lora_rank=4, **ONE_IMAGE)
    loaded = [LoadedAdapter(name, "", number) for number, name in enumerate("ab", 1)]
    for seed, each in enumerate(loaded):
        path = write_adapter(tmp_path / each.name, random_adapter(of_text, 4, seed))
        runner._executor.adapters.keep(each, runner._executor.adapters.read(LocalFiles(path)))

    def session():
        made = Session(runner, config)
        for each in loaded:
            made.engine.adapters.open(each)
        return made

    few = requests[:6]
    adapted = [replace(request, adapter=name) for name in "ab" for request in few]
    shared = session()
    together = shared.run([*few, *adapted])
    check(reference, together, range(6))
    assert shared.run([*few, *adapted]) == together
    assert shared.num_cached_tokens > 0
    for i, request in enumerate(adapted, 6):
        assert session().run([request])[0, 0] == together[i, 0]
        assert together[i, 0] != together[i % 6, 0]
    assert all(together[i, 0] != together[i + 6, 0] for i in range(6, 12))


@BOTH
def test_blocks_with_images_come_back_from_the_host(folder, reference, requests):
    runner, config = build(folder, prefix_host_bytes=8 << 20)
    session = Session(runner, config, num_blocks=90)
    session.run(requests)
    check(reference, session.run(requests))
    assert session.blocks[0].host.num_restored > 0


@BOTH
@pytest.mark.parametrize("settings", [{"kv_dtype": "int8"}, {"weight_dtype": "int8"}], ids=str)
def test_eight_bits_serve_images_whatever_else_runs(folder, requests, settings):
    """The tokens are not the reference's, but one's own, and not those of other images."""
    runner, config = build(folder, **settings, **ONE_IMAGE)
    together = Session(runner, config).run(requests[:6])
    for i in (1, 2):
        alone = Session(runner, config).run([requests[i]])
        assert alone[0, 0] == together[i, 0]
    images = [
        msgspec.structs.replace(image, pixels=image.pixels[::-1], digest=b"reversed")
        for image in requests[1].images
    ]
    reversed_ = Session(runner, config).run([replace(requests[1], images=images)])
    assert reversed_[0, 0] != together[1, 0]


def test_a_server_of_text_has_no_tower(folder, requests):
    runner, config = build(folder, max_images_per_prompt=0, max_num_seqs=2, **ONE_IMAGE)
    assert runner.readable_image is None
    text_only = [replace(request, images=[]) for request in requests[:3]]
    session = Session(runner, config)
    assert all(len(tokens) == NUM_TOKENS for tokens in session.run(text_only).values())
    session.run([requests[1]])
    (event,) = [event for frame in session.frames for event in frame.events]
    assert (event.error, event.message) == (
        "invalid_request",
        "this model reads no images: send text only",
    )


def test_a_step_without_room_for_an_image_is_refused(folder):
    with pytest.raises(ConfigError, match="an image of 16 tokens next to 8 sequences needs 24"):
        build(folder, max_num_batched_tokens=23)


def with_logprobs(request):
    params = msgspec.structs.replace(request.params, num_logprobs=3)
    return replace(request, params=params)


@BOTH
def test_exact_steps_give_the_same_bits_whatever_else_runs(folder, reference, requests):
    """In chunks of 32 tokens, at whose ends images lie."""
    runner, config = build(folder, exact=True, max_num_batched_tokens=32)
    asked = [with_logprobs(request) for request in requests]
    session = Session(runner, config)
    check(reference, session.run(asked))
    together = logprobs(session)
    session.run(asked[:9])
    assert logprobs(session) == {i: together[i] for i in range(9)}
    assert session.num_cached_tokens > 0
    # The sessions to come write the same pool on the device.
    for i in (5, 7, 11):
        alone = Session(runner, config)
        alone.run([asked[i]])
        assert logprobs(alone)[0] == together[i]
    found = Session(runner, config, num_blocks=90)
    found.run(asked)
    assert found.observer.num_preempted > 0
    assert logprobs(found) == together


def logprobs(session):
    """By request, of every token."""
    found = {}
    for event in (event for frame in session.frames for event in frame.events):
        found.setdefault(event.request_id, []).extend(event.logprobs or [])
    return found


def test_an_answer_about_an_image_follows_its_grammar(base, reference, requests):
    """A token per letter. The others in the step give what they give without."""
    letters = {ord(letter): letter.encode() for letter in "abc"}
    tokens = [letters.get(i, b"") for i in range(512)]
    others = [i for i in range(512) if i not in letters]
    compiler = Compiler(Vocabulary(tokens=tokens, special_token_ids=others), 512, (1,))
    params = SamplingParams(max_tokens=40, temperature=0.0, grammar=Grammar("regex", "(ab|ca){6}"))
    session = Session(*base)
    receive = session.engine.receive

    def with_matcher(client, submit):
        has_form = submit.params.grammar is not None
        matchers = [compiler.compile(submit.params.grammar)] if has_form else []
        receive(client, submit, matchers)

    session.engine.receive = with_matcher
    asked = replace(requests[5], params=params)
    found = session.run([*requests[:9], asked])
    check(reference, found, range(9))
    assert re.fullmatch("(ab|ca){6}", "".join(map(chr, found[9, 0][:12])))
