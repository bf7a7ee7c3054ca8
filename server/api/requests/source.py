"""Who sends a request, as a short hash: requests take turns by source.

The hash keeps keys out of frames, logs and memory dumps. Knows neither HTTP nor gRPC: a transport
gives it the request's headers and the client's address.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

# A gateway names the tenant in these; the first one that is there counts.
FAIRNESS_HEADERS = ("x-gateway-inference-fairness-id", "x-llm-d-inference-fairness-id")
# Anthropic's clients send their key in a header of its own.
_KEY_HEADERS = ("authorization", "x-api-key")
_DIGEST_BYTES = 8


def source_of(headers: Mapping[str, str], client_address: str, *, trusts_ids: bool = True) -> str:
    """By fairness id if these are trusted, else by key, else by the client's address without port.

    Header names are in lower case. A client with many connections is one source.
    """
    ids = FAIRNESS_HEADERS if trusts_ids else ()
    for header in (*ids, *_KEY_HEADERS):
        if value := headers.get(header, "").strip():
            kind = "key" if header in _KEY_HEADERS else "id"
            return _digest(f"{kind}:{value}")
    return _digest(f"address:{client_address}")


def _digest(name: str) -> str:
    return blake2b(name.encode(errors="replace"), digest_size=_DIGEST_BYTES).hexdigest()
