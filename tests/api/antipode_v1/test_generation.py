import asyncio
import contextlib
import random

import grpc
import pytest

from server.link.frames import TokenEvent
from server.pb.antipode.v1 import generation_pb2 as pb
from server.pb.antipode.v1.generation_pb2_grpc import GenerationStub
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import collect, failure, ids, serving, text_of, token_ids_of, until

EOS = 262
REQUEST = pb.GenerateRequest(text="x")


class TestStream:
    async def test_no_tokens_are_the_end_of_a_prompt_that_was_read(self):
        engine = FakeEngine([[5]], finish_reason="length")
        async with serving(engine) as s:
            sampling = pb.Sampling(max_tokens=0, prompt_logprobs=0)
            request = pb.GenerateRequest(text="xyz", sampling=sampling)
            (response,) = await collect(s.stub.Generate(request))
        assert (response.text, response.finish_reason) == ("", pb.FINISH_REASON_LENGTH)
        assert len(response.start.prompt_logprobs) == response.usage.num_prompt_tokens == 3
        assert response.usage.num_generated_tokens == 0

    async def test_a_text_prompt_is_answered_token_by_token_or_merged(self):
        answer = ids("hello world")
        engine = FakeEngine([[token_id] for token_id in [*answer, EOS]])
        async with serving(engine) as s:
            responses = await collect(s.stub.Generate(pb.GenerateRequest(text="say hello")))
        assert text_of(responses) == "hello world"
        assert engine.submitted[0].prompt_token_ids == ids("say hello")
        assert [r.finish_reason for r in responses[:-1]] == [0] * (len(responses) - 1)
        assert responses[-1].finish_reason == pb.FINISH_REASON_STOP
        assert not responses[-1].WhichOneof("stop_reason")

    async def test_start_is_in_the_first_message_only_and_usage_in_the_last_only(self):
        engine = FakeEngine([[token_id] for token_id in [*ids("abc"), EOS]])
        async with serving(engine) as s:
            request = pb.GenerateRequest(text="xyz", sampling=pb.Sampling(seed=2**64 - 1))
            responses = await collect(s.stub.Generate(request))
        assert [r.HasField("start") for r in responses] == [
            position == 0 for position in range(len(responses))
        ]
        assert [r.HasField("usage") for r in responses] == [
            position == len(responses) - 1 for position in range(len(responses))
        ]
        start, usage = responses[0].start, responses[-1].usage
        assert (start.model, start.model_version, start.seed) == ("small", "1", 2**64 - 1)
        assert (usage.num_prompt_tokens, usage.num_generated_tokens) == (3, 4)
        assert usage.num_cached_tokens == 2

    async def test_a_drawn_seed_is_told(self):
        engine = FakeEngine([[EOS]])
        async with serving(engine) as s:
            responses = await collect(s.stub.Generate(REQUEST))
        assert responses[0].start.seed == engine.submitted[0].params.seed

    @pytest.mark.parametrize("wanted", [False, True])
    async def test_token_ids_come_when_asked_for(self, wanted):
        answer = [*ids("abc"), EOS]
        engine = FakeEngine([[token_id] for token_id in answer])
        async with serving(engine) as s:
            request = pb.GenerateRequest(text="xy", return_token_ids=wanted)
            responses = await collect(s.stub.Generate(request))
        assert token_ids_of(responses) == (answer if wanted else [])
        assert list(responses[0].start.prompt_token_ids) == (ids("xy") if wanted else [])

    async def test_every_choice_has_its_own_messages(self):
        engine = FakeEngine([[token_id] for token_id in [*ids("ab"), EOS]])
        async with serving(engine) as s:
            responses = await collect(s.stub.Generate(pb.GenerateRequest(text="x", n=3)))
        for index in range(3):
            assert text_of(responses, index) == "ab"
            last = [r for r in responses if r.index == index][-1]
            assert last.finish_reason == pb.FINISH_REASON_STOP
        assert [r.HasField("usage") for r in responses].count(True) == 1
        assert responses[-1].usage.num_generated_tokens == 9

    async def test_a_stop_string_is_named_cut_off_and_ends_the_engine_s_work(self):
        engine = FakeEngine(None)
        async with serving(engine) as s:
            request = pb.GenerateRequest(text="x", sampling=pb.Sampling(stop=["cd"]))
            call = s.stub.Generate(request)
            await until(lambda: engine.submitted)
            engine.emit(ids("abcdef"))
            responses = await collect(call)
        assert text_of(responses) == "ab"
        assert responses[-1].stop_string == "cd"
        assert engine.aborted == [(1, 0, "stop")]

    async def test_a_stop_token_is_named(self):
        token_id = ids("b")[0]
        engine = FakeEngine([ids("a"), [token_id]])
        async with serving(engine) as s:
            request = pb.GenerateRequest(text="x", sampling=pb.Sampling(stop_token_ids=[token_id]))
            responses = await collect(s.stub.Generate(request))
        assert responses[-1].stop_token_id == token_id
        assert responses[-1].finish_reason == pb.FINISH_REASON_STOP

    @pytest.mark.parametrize(
        ("reason", "expected"),
        [("length", pb.FINISH_REASON_LENGTH), ("abort", pb.FINISH_REASON_ABORT)],
    )
    async def test_length_and_abort_are_finish_reasons(self, reason, expected):
        async with serving(FakeEngine([ids("a")], finish_reason=reason)) as s:
            responses = await collect(s.stub.Generate(REQUEST))
        assert responses[-1].finish_reason == expected

    async def test_logprobs_with_alternatives_for_every_token_and_the_prompt(self):
        answer = ids("ab")
        engine = FakeEngine([[token_id] for token_id in answer])
        async with serving(engine) as s:
            request = pb.GenerateRequest(
                text="xyz", sampling=pb.Sampling(logprobs=2, prompt_logprobs=0)
            )
            responses = await collect(s.stub.Generate(request))
        entries = [entry for response in responses for entry in response.logprobs]
        assert [entry.token_id for entry in entries] == answer
        assert [(e.token, e.token_bytes, e.logprob) for e in entries] == [
            ("a", b"a", -0.5),
            ("b", b"b", -0.5),
        ]
        assert [alternative.logprob for alternative in entries[0].top] == [-0.5, -1.0]
        prompt = responses[0].start.prompt_logprobs
        assert [entry.token_id for entry in prompt] == ids("xyz")
        assert [entry.HasField("logprob") for entry in prompt] == [False, True, True]

    async def test_a_slow_reader_gets_fewer_and_larger_messages(self):
        """Everything the engine says while a message is on its way is one message afterwards."""
        engine = FakeEngine(None, max_model_len=100_000)
        num_steps = 3_000
        token_ids = ids("a") * 200
        async with serving(engine) as s:
            call = s.stub.Generate(pb.GenerateRequest(text="x", return_token_ids=True))
            await until(lambda: engine.submitted)
            for _ in range(num_steps):
                engine.emit(token_ids)
                await asyncio.sleep(0)
            engine.emit(finish_reason="length")
            responses = await collect(call)
        assert len(token_ids_of(responses)) == num_steps * len(token_ids)
        assert responses[-1].usage.num_generated_tokens == num_steps * len(token_ids)
        assert len(responses) < num_steps / 2


class TestPrompt:
    async def test_token_ids_are_taken_as_they_are(self):
        engine = FakeEngine([[EOS]])
        async with serving(engine) as s:
            request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5, 263, 7]))
            await collect(s.stub.Generate(request))
        assert engine.submitted[0].prompt_token_ids == [5, 263, 7]

    async def test_a_chat_is_rendered_by_the_model_s_template(self):
        engine = FakeEngine([[EOS]])
        async with serving(engine) as s:
            message = pb.ChatMessage(role="user", content="hi")
            await collect(s.stub.Generate(pb.GenerateRequest(chat=pb.Chat(messages=[message]))))
            expected = s.tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
        assert engine.submitted[0].prompt_token_ids == expected

    async def test_a_chat_can_leave_its_last_message_open(self):
        engine = FakeEngine([[EOS]])
        async with serving(engine) as s:
            messages = [
                pb.ChatMessage(role="user", content="hi"),
                pb.ChatMessage(role="assistant", content="He"),
            ]
            chat = pb.Chat(messages=messages, continue_final_message=True)
            await collect(s.stub.Generate(pb.GenerateRequest(chat=chat)))
            expected = s.tokenizer.encode(
                "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nHe"
            )
        assert engine.submitted[0].prompt_token_ids == expected

    @pytest.mark.parametrize("model", ["", "small", "small@1"])
    async def test_the_model_goes_by_its_names(self, model):
        async with serving(FakeEngine([[EOS]])) as s:
            responses = await collect(s.stub.Generate(pb.GenerateRequest(text="x", model=model)))
        assert responses[0].start.model == "small"


class TestInvalid:
    @pytest.mark.parametrize(
        ("request_", "said"),
        [
            (pb.GenerateRequest(), "no prompt"),
            (pb.GenerateRequest(text=""), "must not be empty"),
            (pb.GenerateRequest(token_ids=pb.TokenIds()), "must not be empty"),
            (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[266])), "outside the vocabulary"),
            (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1] * 256)), "context"),
            (pb.GenerateRequest(text="a" * 100_000), "context"),
            (pb.GenerateRequest(chat=pb.Chat()), "must not be empty"),
            (pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage(content="x")])), "role"),
            (pb.GenerateRequest(text="x", n=0), "n must be"),
            (pb.GenerateRequest(text="x", n=9), "n must be at most 8"),
            (pb.GenerateRequest(text="x", request_id="a b"), "visible ASCII"),
            (pb.GenerateRequest(text="x", request_id="é"), "visible ASCII"),
            (pb.GenerateRequest(text="x", request_id="a" * 129), "1 to 128"),
            (pb.GenerateRequest(text="x", sampling=pb.Sampling(max_tokens=999)), "max_tokens"),
            (pb.GenerateRequest(text="x", sampling=pb.Sampling(temperature=-1)), "temperature"),
            (
                pb.GenerateRequest(text="x", sampling=pb.Sampling(temperature=float("nan"))),
                "temperature",
            ),
            (pb.GenerateRequest(text="x", sampling=pb.Sampling(top_p=-1)), "top_p"),
            (pb.GenerateRequest(text="x", sampling=pb.Sampling(top_k=-2)), "top_k"),
            (pb.GenerateRequest(text="x", sampling=pb.Sampling(min_p=1.5)), "min_p"),
            (pb.GenerateRequest(text="x", sampling=pb.Sampling(logprobs=21)), "logprobs"),
            (
                pb.GenerateRequest(text="x", sampling=pb.Sampling(logit_bias={300: 1})),
                "logit_bias",
            ),
        ],
        ids=str,
    )
    async def test_a_fault_is_reported_and_never_reaches_the_engine(self, request_, said):
        engine = FakeEngine([[EOS]])
        async with serving(engine) as s:
            error = await failure(s.stub.Generate(request_))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert said in error.details()
            assert not engine.submitted
            assert await collect(s.stub.Generate(REQUEST))

    @pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\x02\xff\xfe", b"\x0a\x7f"])
    @pytest.mark.parametrize("method", ["Generate", "Tokenize"])
    async def test_bytes_that_are_no_message(self, method, data):
        async with serving(FakeEngine([[EOS]])) as s:
            call = s.channel.unary_stream(f"/antipode.v1.Generation/{method}")(data)
            error = await failure(call)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"antipode.v1.{method}Request" in error.details()

    async def test_an_unknown_model_is_not_found_however_long_its_name(self):
        async with serving(FakeEngine([[EOS]])) as s:
            request = pb.GenerateRequest(text="x", model="m" * 100_000)
            error = await failure(s.stub.Generate(request))
        assert error.code() is grpc.StatusCode.NOT_FOUND


class TestEnd:
    """However a call ends early, the engine hears of it at once and nothing stays behind."""

    async def test_cancelling_a_call_aborts_the_generation(self):
        engine = FakeEngine(None)
        async with serving(engine) as s:
            call = s.stub.Generate(REQUEST)
            await until(lambda: engine.submitted)
            engine.emit(ids("a"))
            await call.read()
            call.cancel()
            await until(lambda: engine.aborted)
            assert engine.aborted == [(1, None, "abort")]
            await until(lambda: not engine.open)
            assert s.lifecycle.num_in_flight == 0

    async def test_cancelling_before_the_first_token_aborts(self):
        engine = FakeEngine(None)
        async with serving(engine) as s:
            call = s.stub.Generate(REQUEST)
            await until(lambda: engine.submitted)
            call.cancel()
            await until(lambda: engine.aborted and not engine.open)
            assert s.lifecycle.num_in_flight == 0

    async def test_a_connection_that_is_lost_aborts(self):
        engine = FakeEngine(None)
        async with serving(engine) as s:
            async with grpc.aio.insecure_channel(s.address) as channel:
                call = channel.unary_stream(
                    "/antipode.v1.Generation/Generate",
                    request_serializer=pb.GenerateRequest.SerializeToString,
                )(pb.GenerateRequest(text="x"))
                await until(lambda: engine.submitted)
                assert not call.done()
            await until(lambda: engine.aborted and not engine.open)

    async def test_the_deadline_of_the_call_is_the_request_s(self):
        engine = FakeEngine(None)
        async with serving(engine) as s:
            error = await failure(s.stub.Generate(REQUEST, timeout=0.2))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert engine.submitted[0].deadline is not None
            await until(lambda: engine.aborted and not engine.open)

    async def test_no_deadline_is_none(self):
        engine = FakeEngine([[EOS]])
        async with serving(engine) as s:
            await collect(s.stub.Generate(REQUEST))
        assert engine.submitted[0].deadline is None

    async def test_an_engine_that_fails_ends_the_stream_with_its_reason(self):
        engine = FakeEngine(None)
        async with serving(engine) as s:
            call = s.stub.Generate(REQUEST)
            await until(lambda: engine.submitted)
            engine.emit(ids("a"))
            assert (await call.read()).text == "a"
            engine.submitted[0].stream.fail("unavailable", "the engine process has ended")
            error = await failure(call)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == "the engine process has ended"

    async def test_what_came_before_a_failure_is_delivered(self):
        engine = FakeEngine(None)
        async with serving(engine) as s:
            call = s.stub.Generate(REQUEST)
            await until(lambda: engine.submitted)
            engine.emit(ids("a"))
            first = await call.read()
            engine.emit(ids("b"))
            engine.submitted[0].stream.fail("internal", "no")
            last = await call.read()
            error = await failure(call)
        assert (first.text, last.text) == ("a", "b")
        assert not last.HasField("usage")
        assert error.code() is grpc.StatusCode.INTERNAL

    async def test_calls_that_end_at_any_moment_leave_nothing_behind(self, caplog):
        """Cancelled, out of time or disconnected, with a message on its way or an error."""
        engine, chance = FakeEngine(None, max_model_len=10**6), random.Random(1)

        async def emit() -> None:
            while True:
                for submission in engine.submitted:
                    request_id = submission.stream.request_id
                    submission.stream.put(TokenEvent(request_id=request_id, token_ids=ids("a")))
                await asyncio.sleep(0.001)

        async def use(stub) -> None:
            call = stub.Generate(REQUEST, timeout=chance.choice([None, 0.03, 0.1]))
            with contextlib.suppress(grpc.aio.AioRpcError):
                for _ in range(chance.randrange(30)):
                    await call.read()
            call.cancel()

        async with serving(engine) as s:
            emitting = asyncio.create_task(emit())
            await asyncio.gather(*(use(s.stub) for _ in range(100)))
            async with grpc.aio.insecure_channel(s.address) as channel:
                calls = [GenerationStub(channel).Generate(REQUEST) for _ in range(20)]
                await calls[0].read()
            await until(lambda: s.lifecycle.num_in_flight == 0)
            emitting.cancel()
        assert not engine.open
        assert not caplog.records

    async def test_a_client_that_reads_nothing_is_given_up(self):
        engine = FakeEngine(None, max_model_len=10**9)
        small_window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
        async with serving(engine, channel_options=small_window, write_timeout_seconds=0.1) as s:
            call = s.stub.Generate(pb.GenerateRequest(text="x", return_token_ids=True))
            await until(lambda: engine.submitted)
            for _ in range(200):
                engine.emit(ids("a") * 1_000)
                await asyncio.sleep(0)
            await until(lambda: engine.aborted)
            assert engine.aborted == [(1, None, "abort")]
            assert s.lifecycle.num_in_flight == 0
            error = await failure(call)
        assert error.code() is grpc.StatusCode.CANCELLED
        assert "read nothing" in error.details()


class TestTokenize:
    async def test_a_text_is_tokenized_with_the_models_limits(self):
        async with serving(FakeEngine()) as s:
            response = await s.stub.Tokenize(pb.TokenizeRequest(text="hello"))
        assert list(response.token_ids) == ids("hello")
        assert response.max_model_len == 256

    async def test_a_chat_gives_what_generate_starts_from(self):
        engine = FakeEngine([[EOS]])
        chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hello")])
        async with serving(engine) as s:
            response = await s.stub.Tokenize(pb.TokenizeRequest(chat=chat))
            await collect(s.stub.Generate(pb.GenerateRequest(chat=chat)))
        assert list(response.token_ids) == engine.submitted[0].prompt_token_ids

    async def test_detokenize_is_its_inverse(self):
        text = "hello wörld 🙂<|im_end|>"
        async with serving(FakeEngine()) as s:
            tokens = await s.stub.Tokenize(pb.TokenizeRequest(text=text))
            request = pb.DetokenizeRequest(token_ids=tokens.token_ids)
            assert (await s.stub.Detokenize(request)).text == text

    @pytest.mark.parametrize(
        ("method", "request_", "code"),
        [
            ("Tokenize", pb.TokenizeRequest(), grpc.StatusCode.INVALID_ARGUMENT),
            ("Tokenize", pb.TokenizeRequest(text="x", model="no"), grpc.StatusCode.NOT_FOUND),
            ("Detokenize", pb.DetokenizeRequest(model="no"), grpc.StatusCode.NOT_FOUND),
            (
                "Detokenize",
                pb.DetokenizeRequest(token_ids=[999_999]),
                grpc.StatusCode.INVALID_ARGUMENT,
            ),
        ],
    )
    async def test_a_fault_of_tokenizing_has_its_status_code(self, method, request_, code):
        async with serving(FakeEngine()) as s:
            error = await failure(getattr(s.stub, method)(request_))
        assert error.code() is code
