"""Puts an API process together: runs service, HTTP and gRPC on one event loop, and ends them.

This module is the composition root: only it knows every part. The process answers probes and
metrics from its first moment to its last. It serves requests from the moment the engine is ready
until a drain refuses them. If the engine is gone, it ends its streams, flushes them and exits.
"""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import version as release_of
from pathlib import Path

from models.vision.image_format import ImageFormat
from server.api.access.budgets import BUDGETS, Budgets
from server.api.adapter_admin import AdapterAdmin
from server.api.chat.format import ChatSettings
from server.api.embeddings.embedding_recipe import EmbeddingRecipe
from server.api.generation_service import GenerationService
from server.api.grpc.lifetime import GrpcServer
from server.api.health import Health
from server.api.requests.generation import Sampling
from server.api.requests.model_directory import ModelDirectory
from server.api.requests.validation import RequestLimits
from server.api.servers.admin_server import MAX_BODY_BYTES, create_admin_app
from server.api.servers.grpc_server import create_grpc_server, create_versions_server
from server.api.servers.http_port import HttpPort
from server.api.servers.http_server import create_http_app
from server.api.tokenizers.tokenizer import Tokenizer
from server.api.version_admin import VersionAdmin
from server.child_processes import Command
from server.config.config import Config
from server.config.server_config import ServerConfig
from server.files.tls_files import TlsMaterial, tls_files
from server.files.watched_files import WatchedFiles
from server.lifecycle import Lifecycle, drain
from server.link.client import EngineClient
from server.ports import address, listening_socket
from server.processes.api.access import admin_gatekeeper, api_gatekeeper, tracing
from server.processes.api.images import image_limits, room_for_images

_FLUSH_SECONDS = 2.0
FAILED = 1

_log = logging.getLogger(__name__)


class ApiProcess:
    """The parts of one API process, and the order in which they start and stop."""

    def __init__(
        self,
        config: Config,
        link: str,
        tokenizer: Tokenizer,
        recipe: EmbeddingRecipe,
        image_format: ImageFormat | None = None,
        defaults: Sampling | None = None,
    ) -> None:
        server = self._config = config.server
        self._lifecycle = Lifecycle()
        self._engine = EngineClient(link)
        health = self._make_health(server)
        models = ModelDirectory(self._engine, self._lifecycle)
        service = self._make_service(server, models, tokenizer, recipe, image_format, defaults)
        room = room_for_images(server, image_format)
        self._grammars = service.grammars
        self._tracing = tracing(server, release_of("antipode-server"))
        budgets = Budgets(Path(link).with_name(BUDGETS))
        gatekeeper = api_gatekeeper(server, self._engine, budgets, self._tracing)
        tls = tls_files(server)
        adapters = AdapterAdmin(models, self._engine)
        allowed = adapters if server.allow_runtime_lora_updating else None
        admin: VersionAdmin | None = None
        if server.admin_token_file:
            admin = VersionAdmin(models, self._engine, Path(server.admin_token_file))
        app = create_http_app(
            *(service, health, server, admin, allowed),
            gatekeeper=gatekeeper,
            room_for_images=room,
        )
        self._http = HttpPort(
            app,
            server,
            flush_seconds=_FLUSH_SECONDS,
            cors_origins=server.cors_origins,
            max_body_bytes=server.max_body_bytes + room,
            tls=tls,
        )
        self._grpc = create_grpc_server(
            *(service, health, server, admin),
            gatekeeper=gatekeeper,
            tls=tls,
            room_for_images=room,
        )
        self._admin = None if admin is None else self._make_admin(admin, adapters, tls)
        self._drain_asked = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._has_hung_up = False

    def _make_health(self, config: ServerConfig) -> Health:
        return Health(
            self._engine,
            self._lifecycle,
            hang_timeout_seconds=config.hang_timeout_seconds,
            queue_stall_seconds=config.queue_stall_seconds,
        )

    def _make_service(
        self,
        config: ServerConfig,
        models: ModelDirectory,
        tokenizer: Tokenizer,
        recipe: EmbeddingRecipe,
        image_format: ImageFormat | None,
        defaults: Sampling | None,
    ) -> GenerationService:
        return GenerationService(
            self._engine,
            tokenizer,
            self._lifecycle,
            models,
            _request_limits(config),
            chat=_chat_settings(config),
            recipe=recipe,
            image_format=image_format,
            image_limits=image_limits(config),
            defaults=defaults,
        )

    def _make_admin(
        self,
        admin: VersionAdmin,
        adapters: AdapterAdmin,
        tls: WatchedFiles[TlsMaterial] | None,
    ) -> tuple[HttpPort, GrpcServer]:
        config = self._config
        gatekeeper = admin_gatekeeper(config)
        app = create_admin_app(admin, adapters, gatekeeper)
        return (
            HttpPort(
                app, config, flush_seconds=_FLUSH_SECONDS, max_body_bytes=MAX_BODY_BYTES, tls=tls
            ),
            create_versions_server(admin, config, gatekeeper=gatekeeper, tls=tls),
        )

    def command(self, command: Command) -> None:
        """Execute a command of the main process; on the event loop."""
        (self._drain_asked if command == "drain" else self._stop_asked).set()

    async def run(self) -> int:
        """Serve until the main process ends it or the engine is gone. Returns the exit code."""
        http = await self._listen()
        admin = await self._listen_admin()
        ready = asyncio.create_task(self._become_ready())
        try:
            return await self._serve_until_end()
        finally:
            ready.cancel()
            self._lifecycle.mark_stopped()
            await self._grpc.stop(_FLUSH_SECONDS)
            self._http.should_exit = True
            await http
            await self._end_admin(admin)
            self._engine.close()
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.flush)

    async def _listen(self) -> asyncio.Task[None]:
        listener = listening_socket(self._config.host, self._config.http_port)
        await self._grpc.start()
        return asyncio.create_task(self._http.serve(sockets=[listener]))

    async def _listen_admin(self) -> asyncio.Task[None] | None:
        if self._admin is None:
            return None
        http, grpc = self._admin
        listener = listening_socket(self._config.admin_host, self._config.admin_port)
        await grpc.start()
        return asyncio.create_task(http.serve(sockets=[listener]))

    async def _end_admin(self, serving: asyncio.Task[None] | None) -> None:
        if self._admin is None or serving is None:
            return
        http, grpc = self._admin
        await grpc.stop(0)
        http.should_exit = True
        await serving

    async def _become_ready(self) -> None:
        await self._engine.connect()
        info = await self._engine.wait_ready()
        if info is None:
            return
        await self._grammars.prepare(info)
        self._engine.introduce(self._grammars.vocabulary())
        self._lifecycle.mark_ready()
        config = self._config
        _log.info(
            "ready",
            extra={
                "model": info.model,
                "version": info.version or "none",
                "http": address(config.host, config.http_port),
                "grpc": address(config.host, config.grpc_port),
            },
        )

    async def _serve_until_end(self) -> int:
        drained = asyncio.create_task(self._drain())
        stopped = asyncio.create_task(self._stop_asked.wait())
        lost = asyncio.create_task(self._engine.wait_lost())
        await asyncio.wait([drained, stopped, lost], return_when=asyncio.FIRST_COMPLETED)
        if is_lost := lost.done() and not self._has_hung_up:
            _log.error("the engine is gone: %s", self._engine.failure)
        elif not stopped.done():
            await asyncio.wait([drained, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not drained.done():
            self._lifecycle.begin_drain()
            self._lifecycle.stop_accepting()
            self._end_streams()
            await self._lifecycle.wait_idle(_FLUSH_SECONDS)
        for task in (drained, stopped, lost):
            task.cancel()
        return FAILED if is_lost else 0

    async def _drain(self) -> None:
        await self._drain_asked.wait()
        await drain(
            self._lifecycle,
            lame_duck_seconds=self._config.lame_duck_seconds,
            drain_timeout_seconds=self._config.drain_timeout_seconds,
            stop_accepting=self._turn_away,
            end_streams=self._end_streams,
        )

    def _turn_away(self) -> None:
        """Have clients with open connections connect to another server."""
        self._http.close_idle_connections()
        self._grpc.stop_accepting()

    def _end_streams(self) -> None:
        """End the running streams: each reports that the server is stopping."""
        self._has_hung_up = True
        self._engine.close()


def _request_limits(config: ServerConfig) -> RequestLimits:
    return RequestLimits(
        max_sequences=config.max_request_sequences, max_tokens=config.max_request_tokens
    )


def _chat_settings(config: ServerConfig) -> ChatSettings:
    return ChatSettings(
        tool_call_parser=config.tool_call_parser,
        reasoning_parser=config.reasoning_parser,
        control_tokens_in_messages=config.control_tokens_in_messages,
    )
