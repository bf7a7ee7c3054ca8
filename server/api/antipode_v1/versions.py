"""antipode.v1.Versions over the admin object, on a server of its own.

Knows messages and metadata; what may be done, and by whom, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import grpc
from google.protobuf.message import Message

from server.api.grpc.handlers import Handler, add_service, small
from server.api.grpc.status import errors_as_status
from server.api.version_admin import VersionAdmin
from server.link.status import VersionStatus
from server.pb.antipode.v1 import versions_pb2 as pb

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["Versions"].full_name
_POLICIES = {
    pb.SWAP_POLICY_UNSPECIFIED: None,
    pb.SWAP_POLICY_AVAILABILITY: "availability",
    pb.SWAP_POLICY_RESOURCE: "resource",
}


def add_versions(server: grpc.aio.Server, admin: VersionAdmin) -> None:
    """Serve antipode.v1.Versions."""
    handlers = {
        "ListVersions": _method(admin, pb.ListVersionsRequest, lambda _: _list(admin)),
        "GetStatus": _method(admin, pb.GetStatusRequest, lambda m: _get(admin, m)),
        "LoadVersion": _method(
            admin,
            pb.LoadVersionRequest,
            lambda m: _answer(admin.load(m.version, m.path, _POLICIES.get(m.policy, ""))),
        ),
        "Promote": _method(admin, pb.PromoteRequest, lambda m: _answer(admin.promote(m.version))),
        "Rollback": _method(admin, pb.RollbackRequest, lambda _: _answer(admin.roll_back())),
        "UnloadVersion": _method(
            admin, pb.UnloadVersionRequest, lambda m: _answer(admin.unload(m.version))
        ),
    }
    add_service(server, SERVICE_NAME, handlers)


def _method[M: Message](
    admin: VersionAdmin, message_type: type[M], act: Callable[[M], Awaitable[Message]]
) -> Handler:
    def authorize(headers: Mapping[str, str]) -> None:
        admin.authorize(headers.get("authorization", ""))

    return small(errors_as_status, message_type, act, authorize)


async def _list(admin: VersionAdmin) -> pb.ListVersionsResponse:
    return pb.ListVersionsResponse(
        model=admin.model,
        versions=map(_status, admin.list()),
        config_error=admin.config_error,
    )


async def _get(admin: VersionAdmin, message: pb.GetStatusRequest) -> pb.VersionStatus:
    return _status(admin.status(message.version))


async def _answer(change: Awaitable[VersionStatus]) -> pb.VersionStatus:
    return _status(await change)


def _status(status: VersionStatus) -> pb.VersionStatus:
    return pb.VersionStatus(
        version=status.version,
        path=status.path,
        state=f"VERSION_STATE_{status.state}",
        is_serving=status.is_serving,
        labels=status.labels,
        progress=status.progress,
        message=status.message,
    )
