"""The id of a call in its metadata, and the status that an error ends it with.

It only looks up an error's kind in `server.errors`. Knows neither methods nor messages.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Never

import grpc

from server.api.access.call import current_call
from server.api.requests.validation import check_request_id, is_request_id
from server.errors import ApiError, ErrorKind

type Context = grpc.aio.ServicerContext[Any, Any]

REQUEST_ID_KEY = "x-request-id"

# Trailers must fit the few kilobytes of metadata that a peer accepts, whatever a message quotes.
MAX_DETAILS_LENGTH = 1024

_log = logging.getLogger(__name__)


def adopt_request_id(context: Context, given: str = "") -> str:
    """The id `given` in the request, or the id in the call's metadata, or a new one.

    The call's trailing metadata carries the id in every case, and its record has it. An id that a
    call has stays, unless its request has another. Raises ApiError for a given id that metadata
    cannot carry.
    """
    if given:
        check_request_id(given)
    request_id = given or request_id_of(context) or _metadata_id(context) or uuid.uuid4().hex
    others = (each for each in context.trailing_metadata() or () if each[0] != REQUEST_ID_KEY)
    context.set_trailing_metadata((*others, (REQUEST_ID_KEY, request_id)))
    current_call().request_id = request_id
    return request_id


def add_trailer(context: Context, key: str, value: str | bytes) -> None:
    """Have the call end with one more entry of metadata."""
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), (key, value)))


def _metadata_id(context: Context) -> str:
    """The id in the call's metadata; "" where there is none, or where it must not be repeated."""
    request_id = str(dict(context.invocation_metadata() or ()).get(REQUEST_ID_KEY, ""))
    return request_id if is_request_id(request_id) else ""


def request_id_of(context: Context) -> str:
    """The id that the call was given; empty if it has none yet."""
    return str(dict(context.trailing_metadata() or ()).get(REQUEST_ID_KEY, ""))


@asynccontextmanager
async def errors_as_status(context: Context) -> AsyncIterator[None]:
    """End the call with the status of the error that leaves the block; INTERNAL for other errors.

    A call that is already over, because its client has disconnected, counts as cancelled.
    """
    try:
        try:
            yield
        except Exception as error:
            await abort(context, _for_client(error))
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def _for_client(error: Exception) -> ApiError:
    """The error for the client. The text of an unforeseen error goes only to the log."""
    if isinstance(error, grpc.aio.InternalError):
        raise error
    if isinstance(error, ApiError):
        return error
    _log.error("a call failed", exc_info=error)
    return ApiError(ErrorKind.INTERNAL, "internal error")


async def abort(context: Context, error: ApiError) -> Never:
    """End the call with the error's status and, if a retry may help, the time to wait."""
    spec = error.kind.spec
    trailing = tuple(context.trailing_metadata())
    if (retry_after := error.retry_after) is not None:
        trailing += (("grpc-retry-pushback-ms", str(retry_after * 1000)),)
    await context.abort(spec.grpc_code, error.message[:MAX_DETAILS_LENGTH], trailing)
