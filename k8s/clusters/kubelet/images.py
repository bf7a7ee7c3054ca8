"""What stands for an image on this machine: a program and what it finds in its container.

An image is a name in a table. The first pattern that matches an image's name counts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PICKER = "llm-d-router-endpoint-picker"
CHECKOUT = Path(__file__).parents[3]
# The environment that brings the proxy; see the Makefile.
ENVOY = CHECKOUT / ".cache" / "envoy"
COMPILE_CACHE = CHECKOUT / ".cache" / "xla-lab"
# The CPU build has neither chips nor claimed interfaces: it would refuse to be told of them.
_OF_TPUS = ("ANTIPODE_SLICE_", "ANTIPODE_CLAIM_", "ANTIPODE_CHIP_CLAIM_", "ANTIPODE_INTERFACE_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """`mounts` are folders of this machine at further places; `kept` are folders that stand
    for the pod's own volumes at their places, and outlive it. Variables with a prefix of `without`
    are left out.
    """

    entrypoint: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, Path] = field(default_factory=dict)
    kept: Mapping[str, Path] = field(default_factory=dict)
    without: tuple[str, ...] = ()


def server_image() -> Image:
    """The checkout, where the Dockerfile's image has its environment."""
    return Image(
        entrypoint=("/opt/antipode/bin/python", "-P", "-m", "server"),
        environment={
            "HOME": "/tmp",
            "JAX_PLATFORMS": "cpu",
            "PATH": "/opt/antipode/bin:/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(CHECKOUT),
        },
        mounts={"/opt/antipode": Path(sys.prefix), str(CHECKOUT): CHECKOUT},
        # Servers that compile take every core, so what one compiled serves all.
        kept={"/var/cache/antipode/xla": COMPILE_CACHE},
        without=_OF_TPUS,
    )


def picker_image(program: Path) -> Image:
    return Image(entrypoint=(str(program),), environment={"HOME": "/tmp", "PATH": "/usr/bin:/bin"})


def envoy_gateway_images(program: Path) -> dict[str, Image]:
    """Of Envoy Gateway and of the proxies that it starts; both are started by name."""
    [proxies] = ENVOY.glob("lib/*/site-packages/envoy/_bin")
    folders = {str(folder): folder for folder in (program.parent, proxies)}
    variables = {"HOME": "/tmp", "PATH": ":".join((*folders, "/usr/bin", "/bin"))}
    image = Image(entrypoint=(str(program),), environment=variables, mounts=folders)
    return {r".*/envoyproxy/(gateway|envoy)": image}


def table(picker: Path | None, envoy_gateway: Path | None = None) -> dict[str, Image]:
    """Images by a pattern of their names."""
    found = {r".*/antipode(-tpu)?": server_image()}
    if picker is not None:
        found[rf"(.*/)?{PICKER}"] = picker_image(picker)
    if envoy_gateway is not None:
        found |= envoy_gateway_images(envoy_gateway)
    return found


def find(images: Mapping[str, Image], name: str) -> Image | None:
    """What stands for an image; its tag and digest do not matter."""
    repository = re.sub(r"(:[^/:@]+)?(@sha256:[0-9a-f]+)?$", "", name)
    return next((one for pattern, one in images.items() if re.fullmatch(pattern, repository)), None)
