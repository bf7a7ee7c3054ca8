"""One region's control plane: etcd, API server, controller manager and scheduler.

Users prove themselves by tokens: the administrator, the two controllers and each node. Admission
and authorization are those of GKE, as far as the programs have them.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
import time
from collections.abc import Iterable
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from k8s.clusters.control_plane.programs import Programs
from k8s.clusters.host.api import Api
from k8s.clusters.host.processes import Program

PORT = 6443
# On cores that other work shares; alone it takes three seconds.
START_SECONDS = 180.0
# GKE adds the TPU's toleration to pods that request TPUs. Pods of nodes prove which node they are.
ADMISSION = ("NodeRestriction", "ExtendedResourceToleration")
CONTROLLERS = ("controller-manager", "scheduler")


class ControlPlane:
    """`address` is where its programs listen; `services` is the range of Services' addresses."""

    def __init__(
        self, name: str, address: str, services: str, programs: Programs, folder: Path
    ) -> None:
        self.name, self.address = name, address
        self.folder = folder
        self._services, self._programs = services, programs
        self._tokens: dict[str, str] = {}
        self._running: dict[str, Program] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"https://{self.address}:{PORT}"

    @property
    def authority(self) -> Path:
        return self.folder / "certificates" / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    @property
    def is_running(self) -> bool:
        return not any(one.has_ended for one in self._running.values())

    @property
    def pids(self) -> list[int]:
        return [one.pid for one in self._running.values() if not one.has_ended]

    def api(self, user: str = "admin") -> Api:
        return Api(self.url, self.authority, self._tokens[user])

    async def start(self, nodes: Iterable[str]) -> float:
        """Start everything; returns the seconds until the API server was ready."""
        began = time.monotonic()
        self._write_tokens(nodes)
        self._write_service_account_key()
        self._running["etcd"] = Program(self._etcd(), self.folder / "etcd.log")
        self._running["apiserver"] = Program(self._apiserver(), self.folder / "apiserver.log")
        await self._wait_ready()
        for user in ("admin", *CONTROLLERS):
            self.write_kubeconfig(user, self._tokens[user])
        for name, command in (
            ("controller-manager", self._controller_manager()),
            ("scheduler", self._scheduler()),
        ):
            self._running[name] = Program(command, self.folder / f"{name}.log")
        return time.monotonic() - began

    def stop(self) -> None:
        """Kill all of it: an API server does not end by SIGTERM once its etcd is gone."""
        for one in self._running.values():
            one.kill()

    async def start_again(self) -> None:
        """After `stop`: etcd has kept what there was."""
        for name in ("etcd", "apiserver"):
            self._running[name].restart()
        await self._wait_ready()
        for name in CONTROLLERS:
            self._running[name].restart()

    async def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not await self._is_ready():
            server = self._running["apiserver"]
            if server.has_ended or time.monotonic() > deadline:
                raise RuntimeError(f"the API server of {self.name}:\n{server.last_words()}")
            await asyncio.sleep(0.05)

    async def _is_ready(self) -> bool:
        """The server makes its certificate when it first starts."""
        if not self.authority.exists():
            return False
        try:
            context = ssl.create_default_context(cafile=str(self.authority))
            headers = {"authorization": f"Bearer {self._tokens['admin']}"}
            async with httpx.AsyncClient(verify=context, trust_env=False, headers=headers) as http:
                return (await http.get(f"{self.url}/readyz")).status_code == httpx.codes.OK
        except (httpx.HTTPError, ssl.SSLError):
            return False

    def _write_tokens(self, nodes: Iterable[str]) -> None:
        users = [("admin", "admin", "system:masters")]
        users += [(name, f"system:kube-{name}", "") for name in CONTROLLERS]
        users += [(node, f"system:node:{node}", "system:nodes") for node in nodes]
        self._tokens = {name: secrets.token_hex(16) for name, _, _ in users}
        lines = [f'{self._tokens[name]},{user},{name},"{group}"' for name, user, group in users]
        self._private("tokens.csv").write_text("\n".join(lines) + "\n")

    def _write_service_account_key(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self._private("service-accounts.key").write_bytes(pem)

    def write_kubeconfig(self, user: str, token: str) -> Path:
        """For a program that acts as the user of the token."""
        cluster = {"server": self.url, "certificate-authority": str(self.authority.resolve())}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": self.name, "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": self.name, "context": {"cluster": self.name, "user": user}}],
            "current-context": self.name,
        }
        path = self._private(f"{user}.kubeconfig")
        path.write_text(json.dumps(config))
        return path

    def _private(self, name: str) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        return path

    def _etcd(self) -> list[str]:
        """Without fsync: nothing here must survive the machine."""
        return [
            self._programs["etcd"],
            f"--name={self.name}",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls=http://{self.address}:2379",
            f"--advertise-client-urls=http://{self.address}:2379",
            f"--listen-peer-urls=http://{self.address}:2380",
            f"--initial-advertise-peer-urls=http://{self.address}:2380",
            f"--initial-cluster={self.name}=http://{self.address}:2380",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver(self) -> list[str]:
        key = self.folder / "service-accounts.key"
        return [
            self._programs["kube-apiserver"],
            f"--etcd-servers=http://{self.address}:2379",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={PORT}",
            f"--cert-dir={self.folder / 'certificates'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            f"--enable-admission-plugins={','.join(ADMISSION)}",
            f"--service-cluster-ip-range={self._services}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--allow-privileged=false",
        ]

    def _controller_manager(self) -> list[str]:
        return [
            self._programs["kube-controller-manager"],
            *self._controller("controller-manager", 10257),
            f"--service-account-private-key-file={self.folder / 'service-accounts.key'}",
            f"--root-ca-file={self.authority}",
            "--use-service-account-credentials",
        ]

    def _scheduler(self) -> list[str]:
        return [self._programs["kube-scheduler"], *self._controller("scheduler", 10259)]

    def _controller(self, name: str, port: int) -> list[str]:
        config = self.folder / f"{name}.kubeconfig"
        return [
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            f"--bind-address={self.address}",
            f"--secure-port={port}",
            f"--cert-dir={self.folder / name}",
            "--leader-elect=false",
        ]
