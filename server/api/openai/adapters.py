"""vLLM's routes for loading and unloading adapters while the server runs.

They ask for no token and name a path on the server, so they exist only where a setting allows them.
"""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import PlainTextResponse, Response

from server.api.access.audit import refusals_audited
from server.api.adapter_admin import AdapterAdmin
from server.api.http.routes.openapi import text_responses
from server.api.requests.validation import invalid


class LoadAdapterBody(BaseModel):
    """`load_inplace` replaces an adapter of the same name; without it, the name must be new."""

    model_config = ConfigDict(extra="ignore")

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadAdapterBody(BaseModel):
    model_config = ConfigDict(extra="ignore")

    lora_name: str


def adapters_router(admin: AdapterAdmin) -> APIRouter:
    router = APIRouter(default_response_class=Response)
    text = text_responses("text/plain")

    @router.post("/v1/load_lora_adapter", summary="Load a LoRA adapter", responses=text)
    async def load(body: LoadAdapterBody) -> Response:
        with refusals_audited("load adapter", adapter=body.lora_name, path=body.lora_path):
            _check(admin, body)
        await admin.load(body.lora_name, path=body.lora_path)
        return _success(body.lora_name, "added")

    @router.post("/v1/unload_lora_adapter", summary="Unload a LoRA adapter", responses=text)
    async def unload(body: UnloadAdapterBody) -> Response:
        await admin.unload(body.lora_name)
        return _success(body.lora_name, "removed")

    return router


def _check(admin: AdapterAdmin, body: LoadAdapterBody) -> None:
    if admin.find(body.lora_name) is not None and not body.load_inplace:
        raise invalid(
            f"adapter {body.lora_name[:200]!r} is loaded already; set load_inplace to replace it",
            "lora_name",
        )
    if not body.lora_path:
        raise invalid("lora_path must not be empty", "lora_path")


def _success(name: str, what: str) -> Response:
    return PlainTextResponse(f"Success: LoRA adapter '{name}' {what} successfully.")
