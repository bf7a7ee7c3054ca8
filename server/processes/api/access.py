"""What guards the ports, by the settings: the main process checks it, the API processes use it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from server.api.access.api_keys import ApiKeys, read_api_keys
from server.api.access.budgets import Budgets
from server.api.access.gatekeeper import Counter, Gatekeeper
from server.api.tracing.setup import check_tracing, make_provider
from server.config.priorities import read_priorities
from server.config.server_config import ServerConfig
from server.files.admin_token_file import read_admin_token
from server.files.tls_files import tls_files
from server.files.watched_files import WatchedFiles
from server.ports import is_open_to_strangers

if TYPE_CHECKING:
    from server.api.tracing.spans import Tracing

_log = logging.getLogger(__name__)


def check_access(config: ServerConfig) -> None:
    """Refuse to start with files that cannot be used.

    Raises AdminTokenError, WatchedFileError for keys and certificates, and ConfigError for tracing.
    """
    if config.admin_token_file:
        read_admin_token(Path(config.admin_token_file))
    api_keys(config)
    tls_files(config)
    if config.tracing:
        check_tracing()


def warn_of_strangers(config: ServerConfig) -> None:
    """Log what an operator should know who opens the server to everybody."""
    if is_open_to_strangers(config):
        _log.warning(
            "other machines can call this server without a key: whoever reaches its ports may send"
            " requests; set --api-keys-file or --tls-client-ca-file, or let a network policy admit"
            " only the gateway",
            extra={"host": config.host},
        )
    if config.api_keys_file and not config.tls_cert_file:
        _log.warning("API keys travel in clear text: set --tls-cert-file, or serve behind TLS")


def api_keys(config: ServerConfig) -> WatchedFiles[ApiKeys] | None:
    """The keys that callers need; None if they need none. Raises ApiKeysError."""
    if not config.api_keys_file:
        return None
    path = Path(config.api_keys_file)
    return WatchedFiles([path], lambda: read_api_keys(path))


def tracing(config: ServerConfig, release: str) -> Tracing | None:
    """What makes spans; None where the setting is off, and the library stays unread."""
    if not config.tracing:
        return None
    from server.api.tracing.spans import Tracing

    return Tracing(make_provider(release))


def api_gatekeeper(
    config: ServerConfig, counter: Counter, budgets: Budgets, traces: Tracing | None = None
) -> Gatekeeper:
    """In front of the API's ports. The API processes share the file of `budgets`."""
    return Gatekeeper(
        counter,
        keys=api_keys(config),
        budgets=budgets,
        needs_certificate=bool(config.tls_client_ca_file),
        are_metrics_open=not config.metrics_need_key,
        logs_calls=config.access_log,
        trusts_headers=config.trust_scheduling_headers,
        priorities=read_priorities(config.objectives),
        start_span=traces.start if traces else None,
    )


def admin_gatekeeper(config: ServerConfig) -> Gatekeeper:
    """In front of the admin ports, where calls need the admin token and no key."""
    return Gatekeeper(
        needs_certificate=bool(config.tls_client_ca_file), logs_calls=config.access_log
    )
