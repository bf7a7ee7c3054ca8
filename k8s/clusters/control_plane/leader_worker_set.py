"""LeaderWorkerSet's controller for one API server: definitions, rights, webhooks and its program.

All four are those of its Go module. The lab gives it a service account and a certificate, and has
the API server call its webhooks by URL, since no Service leads out of the pods' network.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx
import yaml

from k8s.clusters.control_plane.certificate import write_certificate
from k8s.clusters.control_plane.control_plane import ControlPlane
from k8s.clusters.host.api import Api
from k8s.clusters.host.processes import Program

type Object = dict[str, Any]

START_SECONDS = 180.0
_NAMESPACE, _NAME = "lws-system", "lws-controller-manager"
_WEBHOOK_PORT, _HEALTH_PORT = 9443, 8081
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_RIGHTS = "/apis/rbac.authorization.k8s.io/v1"
_FOLDERS = {
    "MutatingWebhookConfiguration": f"{_ADMISSION}/mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": f"{_ADMISSION}/validatingwebhookconfigurations",
}
# Its webhooks for pods see only those of a LeaderWorkerSet, by the module's own patches.
_OF_GROUPS = {
    "matchExpressions": [{"key": "leaderworkerset.sigs.k8s.io/name", "operator": "Exists"}]
}


class LeaderWorkerSetController:
    """`source` is the folder of its module. The caller starts and stops it."""

    def __init__(self, program: str, source: Path, plane: ControlPlane) -> None:
        self._program, self._source, self._plane = program, source, plane
        self._folder = plane.folder / "leader-worker-set"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._running: Program | None = None

    async def start(self) -> None:
        """RuntimeError with its last words if it does not get ready."""
        api = self._plane.api()
        try:
            for definition in self._documents("crd/bases"):
                await api.apply(f"{_DEFINITIONS}/{definition['metadata']['name']}", definition)
            token = await self._make_account(api)
            certificate = write_certificate(self._plane.address, self._folder)
            kubeconfig = self._plane.write_kubeconfig(_NAME, token)
            self._running = Program(self._command(kubeconfig), self._folder / "controller.log")
            await self._until_ready()
            await self._add_webhooks(api, certificate)
        finally:
            await api.aclose()

    @property
    def pids(self) -> list[int]:
        return [] if self._running is None else [self._running.pid]

    def stop(self) -> None:
        if self._running is not None:
            self._running.kill()

    def _documents(self, place: str) -> list[Object]:
        """The YAML documents of a file or folder of the module's `config`."""
        path = self._source / "config" / place
        files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        return [one for file in files for one in yaml.safe_load_all(file.read_text()) if one]

    async def _make_account(self, api: Api) -> str:
        """Its namespace, service account and rights; returns a token of the account."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}}
        await api.apply(f"/api/v1/namespaces/{_NAMESPACE}", namespace)
        accounts = f"/api/v1/namespaces/{_NAMESPACE}/serviceaccounts"
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": _NAME}}
        await api.apply(f"{accounts}/{_NAME}", account)
        [role] = self._documents("rbac/role.yaml")
        await api.apply(f"{_RIGHTS}/clusterroles/{role['metadata']['name']}", role)
        await api.apply(f"{_RIGHTS}/clusterrolebindings/{_NAME}", _binding(role))
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        answer = await api.create(f"{accounts}/{_NAME}/token", request)
        return str(answer["status"]["token"])

    def _command(self, kubeconfig: Path) -> list[str]:
        """One controller needs no election, and the lab makes the certificate."""
        address = self._plane.address
        config = {
            "apiVersion": "config.lws.x-k8s.io/v1alpha1",
            "kind": "Configuration",
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {"enable": False},
            "webhook": {"host": address, "port": _WEBHOOK_PORT, "certDir": str(self._folder)},
            "health": {"healthProbeBindAddress": f"{address}:{_HEALTH_PORT}"},
            "metrics": {"bindAddress": f"{address}:8443"},
        }
        path = self._folder / "configuration.yaml"
        path.write_text(yaml.safe_dump(config))
        return [self._program, f"--kubeconfig={kubeconfig}", f"--config={path}"]

    async def _until_ready(self) -> None:
        """Ready, and its webhooks listen: it opens them after it has said that it is ready."""
        running, address = self._running, self._plane.address
        assert running is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await _answers(f"http://{address}:{_HEALTH_PORT}/readyz"):
                    await asyncio.sleep(0.2)
                while not await _listens(address, _WEBHOOK_PORT):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            words = f"LeaderWorkerSet's controller is not ready:\n{running.last_words()}"
            raise RuntimeError(words) from None

    async def _add_webhooks(self, api: Api, certificate: str) -> None:
        bundle = base64.b64encode(certificate.encode()).decode()
        url = f"https://{self._plane.address}:{_WEBHOOK_PORT}"
        for configuration in self._documents("webhook/manifests.yaml"):
            for hook in configuration["webhooks"]:
                path = hook["clientConfig"]["service"]["path"]
                hook["clientConfig"] = {"url": f"{url}{path}", "caBundle": bundle}
                if hook["rules"][0]["resources"] == ["pods"]:
                    hook["objectSelector"] = _OF_GROUPS
            folder = _FOLDERS[configuration["kind"]]
            await api.apply(f"{folder}/{configuration['metadata']['name']}", configuration)


def _binding(role: Object) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": _NAME},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": role["metadata"]["name"],
        },
        "subjects": [{"kind": "ServiceAccount", "name": _NAME, "namespace": _NAMESPACE}],
    }


async def _answers(url: str) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            return (await client.get(url)).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


async def _listens(address: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError:
        return False
    writer.close()
    return True
