"""The gatekeeper in front of every route: one middleware records a call, the other lets it in.

Recording is outermost, so that refusals are recorded too; letting in is inside of what words errors
for each protocol. Probes answer everybody. Knows ASGI and the gatekeeper, and no route.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.access.call import Call, current_call
from server.api.access.gatekeeper import Gatekeeper
from server.api.http.errors.error_responses import error_response
from server.errors import ApiError, ErrorKind

HEALTH = frozenset({"/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"})
METRICS = "/metrics"
# The client left before there was an answer.
_LEFT = 499


class CallMiddleware:
    """Makes the record of each call, and ends it. The request id must be known."""

    def __init__(self, app: ASGIApp, gatekeeper: Gatekeeper) -> None:
        self._app, self._gatekeeper = app, gatekeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope["path"], self._gatekeeper):
            await self._app(scope, receive, send)
            return
        client, state = scope.get("client"), scope["state"]
        call = Call(
            method=scope["method"],
            path=scope["path"],
            scheme=scope["scheme"],
            client=client[0] if client else "",
            request_id=state["request_id"],
            certificate=state.get("certificate", ""),
            status=_LEFT,
        )
        self._gatekeeper.begin(call, Headers(scope=scope))
        has_left = False

        async def watched_receive() -> Message:
            nonlocal has_left
            message = await receive()
            has_left = has_left or message["type"] == "http.disconnect"
            return message

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start" and not has_left:
                call.status = message["status"]
            await send(message)

        try:
            await self._app(scope, watched_receive, watched_send)
        finally:
            # The body may have named another.
            call.request_id = state["request_id"]
            call.route = getattr(scope.get("route"), "path_format", "")
            self._gatekeeper.end(call)


class AuthorizationMiddleware:
    """Answers 401 or 429 to calls that the gatekeeper refuses, before their body is read."""

    def __init__(self, app: ASGIApp, gatekeeper: Gatekeeper) -> None:
        self._app, self._gatekeeper = app, gatekeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope["path"], self._gatekeeper):
            try:
                self._gatekeeper.authorize(current_call(), Headers(scope=scope))
            except ApiError as error:
                await _refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_open(path: str, gatekeeper: Gatekeeper) -> bool:
    return path in HEALTH or (path == METRICS and gatekeeper.are_metrics_open)


def _refusal(error: ApiError) -> ASGIApp:
    response = error_response(error)
    if error.kind is ErrorKind.UNAUTHENTICATED:
        response.headers["www-authenticate"] = "Bearer"
    return response
