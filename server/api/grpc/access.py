"""The gatekeeper in front of every method of every service: an interceptor.

Health checks answer everybody, and load reports where /metrics does. It wraps handlers of each kind
without knowing their messages.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health as grpc_health

from server.api.access.call import Call
from server.api.access.gatekeeper import Gatekeeper
from server.api.grpc.peer import certificate_of, headers_of, host_of
from server.api.grpc.status import Context, abort, adopt_request_id
from server.errors import ApiError

# Services, and methods of other services, that say only whether the server can serve.
_HEALTH = (
    f"/{grpc_health.SERVICE_NAME}/",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/vllm.grpc.engine.VllmEngine/HealthCheck",
)
# What balancers read out of band, as they scrape /metrics.
_LOAD = "/xds.service.orca.v3.OpenRcaService/"
_KINDS = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Records each call, and lets in only those that the gatekeeper lets in."""

    def __init__(self, gatekeeper: Gatekeeper) -> None:
        self._gatekeeper = gatekeeper

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or self._is_open(method):
            return handler
        name, make = _KINDS[handler.request_streaming, handler.response_streaming]
        return make(
            self._guarded(getattr(handler, name), method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _is_open(self, method: str) -> bool:
        return method.startswith(_HEALTH) or (
            method.startswith(_LOAD) and self._gatekeeper.are_metrics_open
        )

    def _guarded(self, behaviour: Any, method: str) -> Any:
        """A behaviour of the same kind. One that is not asynchronous cannot be guarded."""
        if inspect.isasyncgenfunction(behaviour):

            async def generate(request: Any, context: Context) -> AsyncIterator[Any]:
                async with self._call(context, method):
                    async for response in behaviour(request, context):
                        yield response

            return generate

        async def answer(request: Any, context: Context) -> Any:
            async with self._call(context, method):
                return await behaviour(request, context)

        return answer

    @asynccontextmanager
    async def _call(self, context: Context, method: str) -> AsyncIterator[None]:
        headers = headers_of(context)
        call = Call(
            method="gRPC",
            path=method,
            client=host_of(context.peer()),
            certificate=certificate_of(context),
        )
        self._gatekeeper.begin(call, headers)
        try:
            # A refused call has an id too, by which its caller and the logs name it.
            adopt_request_id(context)
            try:
                self._gatekeeper.authorize(call, headers)
            except ApiError as error:
                await abort(context, error)
            yield
        except asyncio.CancelledError:
            call.status = grpc.StatusCode.CANCELLED.name
            raise
        finally:
            call.status = call.status or _code_of(context)
            self._gatekeeper.end(call)


def _code_of(context: Context) -> str:
    """The name of the call's status. grpc has a number for it, or nothing for OK."""
    code: Any = context.code()
    return next(
        (each.name for each in grpc.StatusCode if code in (each, each.value[0])),
        grpc.StatusCode.OK.name,
    )
