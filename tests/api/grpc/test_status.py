import logging

import grpc
import pytest

from server.api.grpc.status import MAX_DETAILS_LENGTH
from server.errors import ApiError, ErrorKind
from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import collect, failure, ids, serving, until

EOS = 262
REQUEST = pb.GenerateRequest(text="x")


class FailingEngine(FakeEngine):
    """Raises what it is given instead of taking a request."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def submit(self, *args: object, **options: object):
        raise self.error


def metadata(entries) -> dict[str, str]:
    return dict(entries or ())


class TestErrors:
    @pytest.mark.parametrize("kind", ErrorKind)
    async def test_each_kind_has_the_code_of_the_table_and_its_sentence(self, kind):
        async with serving(FailingEngine(ApiError(kind, "what was wrong: ü"))) as s:
            error = await failure(s.stub.Generate(REQUEST))
        assert error.code() is kind.spec.grpc_code
        assert error.details() == "what was wrong: ü"

    @pytest.mark.parametrize("kind", ErrorKind)
    async def test_a_retry_is_suggested_where_it_helps(self, kind):
        async with serving(FailingEngine(ApiError(kind, "no"))) as s:
            error = await failure(s.stub.Generate(REQUEST))
        pushback = metadata(error.trailing_metadata()).get("grpc-retry-pushback-ms")
        assert pushback == ("1000" if kind.spec.retry_after else None)

    @pytest.mark.parametrize(
        ("kind", "code"),
        [
            ("queue_full", grpc.StatusCode.RESOURCE_EXHAUSTED),
            ("deadline_exceeded", grpc.StatusCode.DEADLINE_EXCEEDED),
            ("unavailable", grpc.StatusCode.UNAVAILABLE),
            ("invalid_request", grpc.StatusCode.INVALID_ARGUMENT),
            ("internal", grpc.StatusCode.INTERNAL),
        ],
    )
    async def test_the_engine_s_refusals(self, kind, code):
        engine = FakeEngine(None)
        async with serving(engine) as s:
            call = s.stub.Generate(REQUEST)
            await until(lambda: engine.submitted)
            engine.emit(finish_reason="error", error=kind, message="because")
            error = await failure(call)
        assert (error.code(), error.details()) == (code, "because")

    async def test_an_unforeseen_error_is_internal_and_says_nothing_of_itself(self, caplog):
        caplog.set_level(logging.ERROR, logger="server")
        async with serving(FailingEngine(RuntimeError("secret"))) as s:
            error = await failure(s.stub.Generate(REQUEST))
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
        assert "secret" in caplog.text

    async def test_a_long_sentence_is_cut_to_what_metadata_may_carry(self):
        async with serving(FailingEngine(ApiError(ErrorKind.NOT_FOUND, "ü" * 100_000))) as s:
            error = await failure(s.stub.Generate(REQUEST))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert error.details() == "ü" * MAX_DETAILS_LENGTH

    async def test_a_client_that_goes_away_leaves_no_error_in_the_log(self, caplog):
        engine = FakeEngine(None)
        async with serving(engine) as s:
            call = s.stub.Generate(REQUEST)
            await until(lambda: engine.submitted)
            engine.emit(ids("a"))
            await call.read()
            call.cancel()
            engine.emit(ids("a"))
            await until(lambda: engine.aborted)
        assert not caplog.records

    async def test_before_the_model_is_loaded_it_is_unavailable(self):
        engine = FakeEngine([[EOS]])
        engine.info = None
        async with serving(engine) as s:
            error = await failure(s.stub.Generate(REQUEST))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "loading" in error.details()

    async def test_a_draining_server_accepts_until_it_is_told_to_stop(self):
        async with serving(FakeEngine([[EOS]])) as s:
            s.lifecycle.begin_drain()
            assert await collect(s.stub.Generate(REQUEST))
            s.lifecycle.stop_accepting()
            error = await failure(s.stub.Generate(REQUEST))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


class TestRequestId:
    async def test_the_message_s_is_echoed_at_both_ends(self):
        async with serving(FakeEngine([[EOS]])) as s:
            request = pb.GenerateRequest(text="x", request_id="from-message")
            call = s.stub.Generate(request, metadata=(("x-request-id", "from-metadata"),))
            responses = await collect(call)
            assert metadata(await call.initial_metadata())["x-request-id"] == "from-message"
            assert metadata(await call.trailing_metadata())["x-request-id"] == "from-message"
        assert responses[0].start.request_id == "from-message"

    async def test_the_metadata_s_stands_in(self):
        async with serving(FakeEngine([[EOS]])) as s:
            call = s.stub.Generate(REQUEST, metadata=(("x-request-id", "from-metadata"),))
            responses = await collect(call)
        assert responses[0].start.request_id == "from-metadata"

    @pytest.mark.parametrize("unfit", ["a b", "a" * 129])
    async def test_one_of_the_metadata_s_that_is_unfit_is_passed_over(self, unfit):
        async with serving(FakeEngine([[EOS]])) as s:
            call = s.stub.Generate(REQUEST, metadata=(("x-request-id", unfit),))
            responses = await collect(call)
        assert responses[0].start.request_id not in ("", unfit)

    async def test_one_is_made_up_for_each_request_without(self):
        async with serving(FakeEngine([[EOS]])) as s:
            made_up = {
                (await collect(s.stub.Generate(REQUEST)))[0].start.request_id for _ in range(3)
            }
        assert len(made_up) == 3
        assert all(made_up)

    async def test_an_error_names_its_request(self):
        async with serving(FakeEngine([[EOS]])) as s:
            request = pb.GenerateRequest(text="x", n=0, request_id="mine")
            error = await failure(s.stub.Generate(request))
        assert metadata(error.trailing_metadata())["x-request-id"] == "mine"

    async def test_tokenizing_echoes_the_metadata_s(self):
        async with serving(FakeEngine()) as s:
            call = s.stub.Tokenize(
                pb.TokenizeRequest(text="x"), metadata=(("x-request-id", "mine"),)
            )
            await call
            assert metadata(await call.trailing_metadata())["x-request-id"] == "mine"
