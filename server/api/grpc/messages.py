"""Messages out of the bytes of a call: bytes that are no message are the client's fault.

grpc's own deserializers would log a traceback and answer UNKNOWN. Knows no service.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError, Message

from server.errors import ApiError, ErrorKind


def parse[M: Message](message_type: type[M], data: bytes) -> M:
    """Decode a message; ApiError (invalid request) for bytes, or text in them, that are none."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        name = message_type.DESCRIPTOR.full_name
        raise ApiError(ErrorKind.INVALID_REQUEST, f"the request is not a valid {name}") from None
