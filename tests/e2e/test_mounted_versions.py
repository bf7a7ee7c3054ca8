"""A mount that misbehaves under a serving server costs nothing that is served, and why is said."""

from __future__ import annotations

import asyncio
import os
import shutil

import pytest

from benchmarks.swap import FLAGS, MODEL, TOKEN, connected
from tests.e2e.servers import REAL, wait_for
from tests.models.checkpoint.mount import mounted, unavailable

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "it can be mounted")

SHARD = "model.safetensors"
READ_SECONDS = 1.0


@pytest.fixture(scope="module")
def mount(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bucket")
    with mounted(shutil.copytree(MODEL, folder / "source"), folder / "tiny") as mount:
        yield mount


@pytest.fixture
def serving(start, mount, tmp_path):
    """A server that reads what it serves, and what it changes to, through the mount."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    return start(
        REAL,
        f"--admin-token-file={token}",
        "--admin-port=0",
        "--admin-grpc-port=0",
        f"--swap-read-timeout-seconds={READ_SECONDS}",
        *FLAGS,
        model=mount.folder / "1",
    ).wait_ready()


def torn(mount):
    path = mount.source / "2" / SHARD
    os.truncate(path, path.stat().st_size - 1000)


def replaced(mount):
    """Other bytes of the same length, after the manifest was written."""
    path = mount.source / "2" / SHARD
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    other.replace(path)


def forbidden(mount):
    mount.set(denied=SHARD)


def hung(mount):
    """Sixty times as long as one read may take, as a mount that is gone for half an hour."""
    mount.set(hang_seconds=60 * READ_SECONDS)


FAULTS = {
    torn: "it is truncated, replaced, or not all there yet",
    replaced: "does not have the checksum it was published with",
    forbidden: "Permission denied",
    hung: f"took more than {READ_SECONDS:g} s: the mount or bucket does not answer",
}


async def test_a_fault_of_the_mount_leaves_what_is_served_and_is_told(serving, mount):
    async with connected(serving) as client:
        before = await client.over_http(0, "tiny")
        for fault, words in FAULTS.items():
            fault(mount)
            with pytest.raises(AssertionError) as refused:
                await client.admin("POST", "/versions/2/load")
            assert words in str(refused.value), fault.__name__
            assert words in (await client.admin("GET", "/versions/2"))["message"]
            assert await client.over_http(0, "tiny") == before
            restore(mount)
        await client.admin("POST", "/versions/2/load")
        await client.admin("POST", "/versions/2/promote")
        assert (await client.over_http(0, "tiny")).version == "2"


async def test_an_object_replaced_while_it_is_read_is_refused(serving, mount):
    mount.set(bytes_per_second=2e6)
    async with connected(serving) as client:
        load = asyncio.create_task(client.admin("POST", "/versions/2/load"))
        await asyncio.to_thread(
            wait_for,
            lambda: any("reading" in line.get("detail", "") for line in serving.log),
            "reading",
        )
        replaced(mount)
        with pytest.raises(AssertionError) as refused:
            await load
        assert SHARD in str(refused.value)
        assert (await client.over_http(0, "tiny")).version == "1"
    restore(mount)


def is_reading(server):
    return any(line.get("detail") == "reading weights" for line in server.log)


def restore(mount):
    mount.set()
    shutil.copy2(MODEL / "2" / SHARD, mount.source / "2" / SHARD)
