"""The name in the certificate that a client has shown, and that the handshake has verified."""

from __future__ import annotations

import asyncio
from typing import Any


def certificate_name(transport: asyncio.BaseTransport) -> str:
    """The subject's common name, else the first other name; empty without a certificate."""
    found: dict[str, Any] = transport.get_extra_info("peercert") or {}
    names = dict(pair for part in found.get("subject", ()) for pair in part)
    others = [value for _, value in found.get("subjectAltName", ())]
    name: str = names.get("commonName") or next(iter(others), "")
    return name or ("unnamed" if found else "")
