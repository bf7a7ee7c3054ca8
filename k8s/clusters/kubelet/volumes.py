"""A pod's volumes as folders of this machine.

Files of ConfigMaps, Secrets and projections change as a kubelet changes them: a new folder is
written, then the link `..data` is replaced, so a reader sees the old files or the new ones.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from k8s.clusters.kubelet.environment import Contents, MissingReferenceError, Object, field

BUCKETS = "gcsfuse.csi.storage.gke.io"
FOLDERS = ("emptyDir",)
FILES = ("configMap", "secret", "projected", "downwardAPI")

# Tokens of the pod's service account by audience and seconds.
type Tokens = Mapping[tuple[str, int], str]


def write_files(folder: Path, files: Mapping[str, str]) -> bool:
    """Make the folder hold exactly these files, at once; False if it holds them already.
    Names may have folders in them.
    """
    data = folder / "..data"
    if data.exists() and _files_in(data) == dict(files):
        return False
    before = folder / os.readlink(data) if data.is_symlink() else None
    newest = folder / f"..{time.strftime('%Y_%m_%d_%H_%M_%S')}.{time.monotonic_ns()}"
    for name, content in files.items():
        path = newest / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    newest.mkdir(parents=True, exist_ok=True)
    draft = folder / "..data_tmp"
    draft.symlink_to(newest.name)
    draft.replace(data)
    _link_names(folder, {Path(name).parts[0] for name in files})
    if before is not None:
        shutil.rmtree(before)
    return True


def _link_names(folder: Path, names: set[str]) -> None:
    """One link per name into ..data, and none for a name that is gone."""
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in names:
            entry.unlink()
    for name in names:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)


def _files_in(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


def files_of(volume: Object, pod: Object, contents: Contents, tokens: Tokens) -> dict[str, str]:
    """The files of a volume of one of the kinds FILES. MissingReferenceError if something that they
    need is not there.
    """
    found: dict[str, str] = {}
    for source in volume.get("projected", {}).get("sources", [volume]):
        if "configMap" in source:
            found |= _items(source["configMap"], "ConfigMap", source["configMap"]["name"], contents)
        elif "secret" in source:
            secret = source["secret"]
            name = secret.get("secretName") or secret["name"]
            found |= _items(secret, "Secret", name, contents)
        elif "downwardAPI" in source:
            for item in source["downwardAPI"]["items"]:
                found[item["path"]] = field(pod, item["fieldRef"]["fieldPath"])
        elif "serviceAccountToken" in source:
            asked = source["serviceAccountToken"]
            token = tokens.get(_audience_and_seconds(asked))
            if token is None:
                raise MissingReferenceError(f"token of volume {volume['name']}")
            found[asked["path"]] = token
        else:
            raise MissingReferenceError(f"a source of volume {volume['name']}: {', '.join(source)}")
    return found


def token_requests(pod: Object) -> set[tuple[str, int]]:
    """The audiences and seconds of the tokens that a pod's volumes hold."""
    return {
        _audience_and_seconds(source["serviceAccountToken"])
        for volume in pod["spec"].get("volumes", ())
        for source in volume.get("projected", {}).get("sources", ())
        if "serviceAccountToken" in source
    }


def _audience_and_seconds(asked: Object) -> tuple[str, int]:
    return asked.get("audience", ""), asked.get("expirationSeconds", 3600)


def _items(source: Object, kind: str, name: str, contents: Contents) -> dict[str, str]:
    content = contents.get((kind, name))
    if content is None:
        if source.get("optional"):
            return {}
        raise MissingReferenceError(f"{kind} {name}")
    if "items" not in source:
        return dict(content)
    missing = [item["key"] for item in source["items"] if item["key"] not in content]
    if missing and not source.get("optional"):
        raise MissingReferenceError(f"key {missing[0]} of {kind} {name}")
    return {
        item["path"]: content[item["key"]] for item in source["items"] if item["key"] in content
    }


def is_of_files(volume: Object) -> bool:
    return any(kind in volume for kind in FILES)


def folder_of(volume: Object, pod_folder: Path, buckets: Path) -> Path:
    """Where a volume lies. MissingReferenceError for a kind that this kubelet does not know."""
    csi = volume.get("csi", {})
    if csi.get("driver") == BUCKETS:
        return _bucket(csi["volumeAttributes"], buckets)
    if is_of_files(volume) or any(kind in volume for kind in FOLDERS):
        folder = pod_folder / "volumes" / str(volume["name"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    kinds = ", ".join(name for name in volume if name != "name")
    raise MissingReferenceError(f"volume {volume['name']}: the lab's kubelet has no {kinds}")


def _bucket(attributes: Mapping[str, str], buckets: Path) -> Path:
    """The bucket's folder, or the folder in it that the mount option only-dir names."""
    folder = buckets / attributes["bucketName"]
    for option in attributes.get("mountOptions", "").split(","):
        name, _, value = option.partition("=")
        if name == "only-dir":
            folder /= value
    if not folder.is_dir():
        raise MissingReferenceError(f"bucket {attributes['bucketName']}")
    return folder
