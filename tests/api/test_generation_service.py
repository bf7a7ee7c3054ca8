"""The service: who may ask what, in which state, and what is said when not."""

from __future__ import annotations

import asyncio

import pytest

from server.api.embeddings.embedding_recipe import EmbeddingRecipe
from server.api.generation_service import GenerationService
from server.api.large_work import MAX_INLINE_UNITS
from server.api.prompts import MAX_TEXT_CHARS, MAX_TOKENS
from server.api.requests.generation import GenerateRequest, ResumePoint, Sampling
from server.api.requests.validation import RequestLimits
from server.api.tokenizers.tokenizer import Tokenizer
from server.errors import ApiError, ErrorKind
from server.lifecycle import Lifecycle
from server.link.frames import Pulse
from tests.api.conversations import said
from tests.api.fakes import make_service


async def text_of(service: GenerationService, request: GenerateRequest) -> str:
    async with await service.start(request) as generation:
        return "".join([delta.text async for delta in generation])


async def refusal(service: GenerationService, request: GenerateRequest) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await service.start(request)
    return caught.value


async def test_a_prompt_is_tokenised_submitted_and_answered(service, engine, tokenizer):
    assert await text_of(service, GenerateRequest(prompt="hello wörld")) == "hello world"
    (submission,) = engine.submitted
    assert submission.prompt_token_ids == tokenizer.encode("hello wörld")
    assert submission.params.max_tokens == 256 - len(submission.prompt_token_ids)
    assert engine.open == {}


async def test_token_ids_are_taken_as_they_are(service, engine):
    await text_of(service, GenerateRequest(prompt=(1, 2, 3)))
    assert engine.submitted[0].prompt_token_ids == [1, 2, 3]


@pytest.mark.parametrize(
    ("kept", "max_tokens", "expected"),
    [(2, None, "ef"), (99, None, "abcdef"), (-1, 253, "def"), (-1, None, "abcdef")],
)
@pytest.mark.parametrize("as_text", [True, False])
async def test_a_truncated_prompt_is_its_last_tokens(
    service, engine, tokenizer, as_text, kept, max_tokens, expected
):
    prompt = "abcdef" if as_text else tuple(tokenizer.encode("abcdef"))
    await text_of(
        service,
        GenerateRequest(
            prompt=prompt,
            truncate_prompt_tokens=kept,
            sampling=Sampling(max_tokens=max_tokens),
        ),
    )
    assert tokenizer.decode(engine.submitted[0].prompt_token_ids) == expected


async def test_a_prompt_longer_than_the_context_runs_truncated(service, engine):
    request = GenerateRequest(prompt="x" * 5000, truncate_prompt_tokens=-1)
    await text_of(service, request)
    assert len(engine.submitted[0].prompt_token_ids) == 255


@pytest.mark.parametrize("kept", [0, -2])
async def test_a_truncation_that_keeps_nothing_is_refused(service, kept):
    error = await refusal(service, GenerateRequest(prompt="x", truncate_prompt_tokens=kept))
    assert error.param == "truncate_prompt_tokens"


@pytest.mark.parametrize("model", ["", "small", "small@1"])
async def test_names_of_the_served_model(service, model):
    async with await service.start(GenerateRequest(prompt="x", model=model)) as generation:
        assert (generation.model, generation.version) == ("small", "1")
    assert service.models.find(model).name == "small"


@pytest.mark.parametrize("model", ["other", "small@2", "smal"])
async def test_other_models_do_not_exist(service, engine, model):
    error = await refusal(service, GenerateRequest(prompt="x", model=model))
    assert (error.kind, error.param, error.code) == (
        *(ErrorKind.NOT_FOUND, "model"),
        "model_not_found",
    )
    assert engine.submitted == []
    assert engine.refused == ["not_found"]


async def test_the_models_own_options_count_where_a_request_says_nothing(
    engine, tokenizer, lifecycle
):
    own = Sampling(temperature=0.6, top_k=20)
    service = make_service(engine, tokenizer, lifecycle, defaults=own)
    for sampling in (Sampling(), Sampling(temperature=0.0)):
        async with await service.start(GenerateRequest(prompt="hi", sampling=sampling)):
            pass
    plain, greedy = (submission.params for submission in engine.submitted)
    assert (plain.temperature, plain.top_k, plain.top_p) == (0.6, 20, 1.0)
    assert (greedy.temperature, greedy.top_k) == (0.0, 20)


async def test_a_drawn_seed_is_reported_and_differs(service, engine):
    seeds = set()
    for _ in range(3):
        async with await service.start(GenerateRequest(prompt="x")) as generation:
            seeds.add(generation.seed)
            assert engine.submitted[-1].params.seed == generation.seed < 2**53
    assert len(seeds) == 3


async def test_a_given_seed_is_reported_as_given(service, engine):
    request = GenerateRequest(prompt="x", sampling=Sampling(seed=-1))
    async with await service.start(request) as generation:
        assert generation.seed == -1
    assert engine.submitted[0].params.seed == 2**64 - 1


async def test_a_refused_request_is_counted_and_never_submitted(service, engine):
    error = await refusal(service, GenerateRequest(prompt="x", sampling=Sampling(top_p=-0.1)))
    assert error.param == "top_p"
    assert engine.refused == ["invalid_request"]
    assert engine.submitted == []


@pytest.mark.parametrize("prompt", ["", ()])
async def test_an_empty_prompt_is_refused(service, prompt):
    assert "empty" in (await refusal(service, GenerateRequest(prompt=prompt))).message


async def test_a_prompt_that_is_no_unicode_is_refused(service):
    error = await refusal(service, GenerateRequest(prompt="a\ud800"))
    assert (error.kind, error.param) == (ErrorKind.INVALID_REQUEST, "prompt")


async def test_a_text_that_cannot_fit_is_refused_unread(service, tokenizer, monkeypatch):
    monkeypatch.setattr(Tokenizer, "encode", None)
    prompt = "x" * (256 * tokenizer.max_token_chars + 1)
    error = await refusal(service, GenerateRequest(prompt=prompt))
    assert error.code == "context_length_exceeded"


@pytest.mark.parametrize("num_prompts", [0, 257])
async def test_number_of_prompts(service, num_prompts):
    with pytest.raises(ApiError) as caught:
        await service.start_group([GenerateRequest(prompt="x")] * num_prompts)
    assert caught.value.param == "prompt"


async def test_one_bad_prompt_keeps_the_whole_group_from_starting(service, engine):
    with pytest.raises(ApiError):
        await service.start_group([GenerateRequest(prompt="x"), GenerateRequest(prompt="")])
    assert engine.submitted == []


@pytest.mark.parametrize("kind", ["queue_full", "deadline_exceeded", "unavailable", "internal"])
async def test_an_error_before_the_first_token_is_raised_by_start(service, engine, lifecycle, kind):
    engine.script = None
    starting = asyncio.create_task(service.start(GenerateRequest(prompt="x")))
    while not engine.submitted:
        await asyncio.sleep(0)
    engine.emit(finish_reason="error", error=kind, message="why")
    with pytest.raises(ApiError, match="why") as caught:
        await starting
    assert caught.value.kind is ErrorKind(kind)
    assert engine.open == {}
    assert lifecycle.num_in_flight == 0


async def test_cancelling_start_aborts_the_request(service, engine, lifecycle):
    engine.script = None
    starting = asyncio.create_task(service.start(GenerateRequest(prompt="x")))
    while not engine.submitted:
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert engine.aborted == [(1, None, "abort")]
    assert engine.open == {}
    assert lifecycle.num_in_flight == 0


async def test_a_passed_deadline_is_refused(service, engine):
    error = await refusal(service, GenerateRequest(prompt="x", timeout_seconds=0.0))
    assert error.kind is ErrorKind.DEADLINE_EXCEEDED
    assert engine.submitted == []


async def test_a_deadline_holds_even_if_the_engine_hangs(service, engine):
    engine.script = None
    error = await refusal(service, GenerateRequest(prompt="x", timeout_seconds=0.01))
    assert error.kind is ErrorKind.DEADLINE_EXCEEDED
    assert engine.submitted[0].deadline is not None
    assert engine.aborted == [(1, None, "deadline_exceeded")]


async def test_requests_are_in_flight_until_they_are_closed(service, lifecycle):
    generation = await service.start(GenerateRequest(prompt="x"))
    assert lifecycle.num_in_flight == 1
    await generation.aclose()
    assert lifecycle.num_in_flight == 0


async def test_a_draining_server_accepts_until_told_not_to(service, lifecycle, engine):
    lifecycle.begin_drain()
    assert await text_of(service, GenerateRequest(prompt="x")) == "hello world"
    lifecycle.stop_accepting()
    error = await refusal(service, GenerateRequest(prompt="x"))
    assert error.kind is ErrorKind.UNAVAILABLE
    assert "shutting down" in error.message
    assert engine.refused == ["unavailable"]


async def test_before_the_model_is_loaded_requests_are_unavailable(engine, tokenizer):
    engine.info = None
    engine.pulse = Pulse(state="starting", detail="compiling 3 of 9", progress=0.5)
    service = make_service(engine, tokenizer, Lifecycle())
    error = await refusal(service, GenerateRequest(prompt="x"))
    assert error.kind is ErrorKind.UNAVAILABLE
    assert error.message == "the model is still loading: compiling 3 of 9"
    with pytest.raises(ApiError, match="still loading"):
        service.models.loaded()


async def test_after_the_engine_has_failed_requests_are_unavailable(service, engine):
    engine.failure = "the engine process has ended"
    error = await refusal(service, GenerateRequest(prompt="x"))
    assert (error.kind, error.message) == (ErrorKind.UNAVAILABLE, engine.failure)


@pytest.mark.parametrize("num_chars", [5, MAX_INLINE_UNITS + 1])
async def test_tokenise_and_back(service, num_chars):
    text = "hello"[:num_chars].ljust(num_chars, "x")
    token_ids = await service.tokenize(text)
    assert await service.detokenize(token_ids) == text


async def test_a_long_text_does_not_hold_the_loop_up(service, tokenizer, monkeypatch):
    """While a thread tokenises, the loop goes on: it is what lets the thread finish."""
    going_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def encode(text: str, *, add_special_tokens: bool) -> list[int]:
        asyncio.run_coroutine_threadsafe(going_on.wait(), loop).result(timeout=5)
        return [1]

    monkeypatch.setattr(tokenizer, "encode", encode)
    tokenizing = asyncio.create_task(service.tokenize("x" * (MAX_INLINE_UNITS + 1)))
    await asyncio.sleep(0)
    going_on.set()
    assert await tokenizing == [1]


async def test_special_tokens_are_part_of_detokenised_text(service):
    assert await service.detokenize([262]) == "<|eos|>"


@pytest.mark.parametrize("token_id", [-1, 266])
async def test_ids_that_do_not_exist_have_no_text(service, token_id):
    with pytest.raises(ApiError, match="no token of this model"):
        await service.detokenize([token_id])


async def test_chat_messages_are_rendered(service):
    rendered = await service.render_chat(said("hi"))
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("conversation", "param"),
    [
        (said(), "messages"),
        (said("x", continue_final_message=True), "continue_final_message"),
        (said("x", template_options={"tools": 1}), "messages"),
    ],
)
async def test_chats_that_cannot_be_rendered(service, conversation, param):
    with pytest.raises(ApiError) as caught:
        await service.render_chat(conversation)
    assert (caught.value.kind, caught.value.param) == (ErrorKind.INVALID_REQUEST, param)


class TestRequestLimits:
    LIMITS = RequestLimits(max_sequences=4, max_tokens=100)

    @pytest.fixture
    def service(self, engine, tokenizer, lifecycle):
        return make_service(engine, tokenizer, lifecycle, self.LIMITS)

    async def refusal(self, service, engine, **options):
        prompts, n = options.pop("prompts", 1), options.pop("n", 1)
        request = GenerateRequest(prompt=(1, 2), n=n, sampling=Sampling(**options))
        with pytest.raises(ApiError) as caught:
            await service.start_group([request] * prompts)
        assert engine.submitted == []
        assert caught.value.kind is ErrorKind.INVALID_REQUEST
        return caught.value

    @pytest.mark.parametrize(
        ("prompts", "n", "param"), [(5, 1, "prompt"), (2, 3, "prompt"), (1, 5, "n")]
    )
    async def test_too_many_sequences_are_refused_by_their_number(
        self, service, engine, prompts, n, param
    ):
        error = await self.refusal(service, engine, prompts=prompts, n=n, max_tokens=1)
        assert error.param == param
        assert f"{prompts * n} sequences" in error.message
        assert "at most 4" in error.message

    async def test_too_many_tokens_of_all_sequences_are_refused(self, service, engine):
        error = await self.refusal(service, engine, prompts=2, n=2, max_tokens=24)
        assert error.param == "max_tokens"
        assert "for 104 tokens" in error.message
        assert "at most 100" in error.message

    async def test_as_much_as_the_limits_hold_runs(self, service):
        request = GenerateRequest(prompt=(1, 2), n=2, sampling=Sampling(max_tokens=23))
        async with await service.start_group([request] * 2) as group:
            await group.finish()

    async def test_the_default_is_sixteen_contexts(self, engine, tokenizer, lifecycle):
        service = make_service(engine, tokenizer, lifecycle)
        error = await self.refusal(service, engine, prompts=17)
        assert f"at most {16 * 256} may" in error.message
        request = GenerateRequest(prompt=(1, 2))
        async with await service.start_group([request] * 16) as group:
            await group.finish()


async def test_the_source_of_a_request_reaches_the_engine(service, engine):
    async with await service.start(GenerateRequest(prompt="x", source="abc")):
        assert engine.submitted[0].source == "abc"


async def test_a_prompt_that_cannot_fit_is_refused_early(service, tokenizer, monkeypatch):
    """Of a text of a megabyte, no more is tokenized than could fit."""
    lengths = []
    encode = tokenizer.encode

    def counting(text: str, **options: bool) -> list[int]:
        lengths.append(len(text))
        return encode(text, **options)

    monkeypatch.setattr(tokenizer, "encode", counting)
    monkeypatch.setattr(tokenizer, "max_token_chars", 10_000)
    error = await refusal(service, GenerateRequest(prompt="z" * 1_000_000))
    assert error.code == "context_length_exceeded"
    assert error.message.startswith("This model's maximum context length is 256 tokens. However, ")
    assert lengths == [2048]


async def test_a_long_text_of_few_tokens_is_tokenized_whole(service, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "max_token_chars", 10_000)
    monkeypatch.setattr(tokenizer, "encode", lambda text, **_: [1] * (len(text) // 1000 + 1))
    assert await text_of(service, GenerateRequest(prompt="z" * 100_000)) == "hello world"


async def test_more_than_can_be_read_at_once_is_refused(service):
    with pytest.raises(ApiError, match="at most 1048576 can be tokenized at once"):
        await service.tokenize("x" * (MAX_TEXT_CHARS + 1))
    with pytest.raises(ApiError, match="at most 262144 can be read at once"):
        await service.detokenize([1] * (MAX_TOKENS + 1))


async def test_more_received_tokens_than_a_stream_can_have_are_refused(
    service,
):
    resume = ResumePoint(version="1", received=((1,) * 257,))
    sampling = Sampling(seed=1)
    error = await refusal(service, GenerateRequest(prompt="x", sampling=sampling, resume=resume))
    assert error.code == "context_length_exceeded"


async def test_a_model_without_a_head_is_asked_for_no_token(engine, tokenizer, lifecycle):
    recipe = EmbeddingRecipe(no_tokens="this model has no output head")
    service = make_service(engine, tokenizer, lifecycle, recipe=recipe)
    error = await refusal(service, GenerateRequest(prompt="x"))
    assert (error.kind, error.param) == (ErrorKind.INVALID_REQUEST, "model")
    assert error.message == "this model has no output head; use /v1/embeddings"
