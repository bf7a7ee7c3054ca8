"""What the lab changes in a region's values: a CPU build of the server on two shared cores.

Everything else is as in the region's file: slice, claims, bucket, probes, times, policies.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from k8s.clusters.kubelet.images import CHECKOUT

type Values = dict[str, Any]
MODEL = CHECKOUT / "models" / "tiny"
GROUP_SLICE = "v6e:4x4"
# Sizes that let several servers share two cores.
SIZES = {"max_num_batched_tokens": "64", "num_blocks": "1024"}


def region_values(region: str) -> Values:
    values: Values = yaml.safe_load((CHECKOUT / "helm" / "regions" / f"{region}.yaml").read_text())
    return values


def overrides(num_replicas: int, *, chips_by_claim: bool = False) -> Values:
    """With `chips_by_claim` servers get their chips from a driver, not from the device plugin."""
    chips = {"sliceChips": "claim"} if chips_by_claim else {}
    extra = {"dtype": "float32", **SIZES}
    return chips | {"replicas": num_replicas, "server": {"maxNumSeqs": 16, "extra": extra}}


def group_overrides(num_groups: int, secret: str) -> Values:
    """Servers of four hosts each: groups of pods that split every layer."""
    found = overrides(num_groups) | {"slice": GROUP_SLICE}
    # Every host compiles every program, and all hosts share two cores: so few programs.
    extra = found["server"]["extra"] | {"max_num_batched_tokens": "16"}
    few = {"maxNumSeqs": 2, "extra": extra}
    found["server"] |= {"dataParallelSize": 1, "groupSecret": secret} | few
    return found


def fill_bucket(region: str, buckets: Path) -> None:
    """Put the tiny model where the region's values say that its model is."""
    model = region_values(region)["model"]
    shutil.copytree(MODEL, buckets / model["bucket"] / model["path"], dirs_exist_ok=True)
