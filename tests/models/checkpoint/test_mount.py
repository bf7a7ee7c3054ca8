"""Reading a version through a mount that misbehaves: a clear reason in time, or the bytes."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from models.checkpoint import manifest
from models.checkpoint.checkpoint import CheckpointError
from models.checkpoint.files import LocalFiles
from models.checkpoint.verified_reading import ReadLimits
from models.checkpoint.version_folder import open_version
from tests.models.checkpoint.mount import mounted, unavailable

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "it can be mounted")

NUM_TENSORS = 12
SHARD = "model.safetensors"


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """A version of 48 MB in one shard of three chunks."""
    folder = tmp_path_factory.mktemp("bucket") / "1"
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {
        f"t{number:02}": rng.random((1000, 1000), np.float32) for number in range(NUM_TENSORS)
    }
    save_file(tensors, folder / SHARD)
    (folder / "config.json").write_text("{}")
    manifest.write(folder)
    return folder


@pytest.fixture
def mount(version, tmp_path):
    """A copy of the version, mounted."""
    source = shutil.copytree(version, tmp_path / "source")
    with mounted(source, tmp_path / "mounted") as mount:
        yield mount


def open_mounted(mount, tmp_path, **limits):
    limits = ReadLimits(**({"timeout_seconds": 5.0} | limits))
    return open_version(LocalFiles(mount.folder), tmp_path / "copy", limits)


def read_all(version):
    checkpoint = version.checkpoint()
    names = [f"t{number:02}" for number in range(NUM_TENSORS)]
    checkpoint.read_ahead(names)
    return {name: checkpoint.read(name) for name in names}


def refusal(act):
    with pytest.raises(CheckpointError) as error:
        act()
    return str(error.value)


def test_a_version_comes_whole_through_a_slow_mount(mount, version, tmp_path):
    mount.set(first_byte_seconds=0.08, bytes_per_second=100e6)
    tensors = read_all(open_mounted(mount, tmp_path))
    expected = read_all(open_version(LocalFiles(version), tmp_path / "plain"))
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_array_equal(tensors[name], tensor)


def test_a_reader_holds_no_more_than_its_buffer(mount, tmp_path):
    opened = open_mounted(mount, tmp_path, buffer_bytes=32 << 20, num_threads=1)
    read_all(opened)
    assert len(opened.reader._chunks) <= 2


def test_an_object_replaced_while_it_is_read(mount, tmp_path):
    mount.set(bytes_per_second=40e6)
    opened = open_mounted(mount, tmp_path)

    def replace():
        other = mount.source / "other"
        other.write_bytes(os.urandom((mount.source / SHARD).stat().st_size))
        other.replace(mount.source / SHARD)

    threading.Timer(0.2, replace).start()
    message = refusal(lambda: read_all(opened))
    assert SHARD in message
    assert "changed" in message or "checksum" in message or "Stale" in message


def test_a_shard_cut_short(mount, tmp_path):
    shard = mount.source / SHARD
    os.truncate(shard, shard.stat().st_size - 1000)
    message = refusal(lambda: open_mounted(mount, tmp_path))
    assert "it is truncated, replaced, or not all there yet" in message


def test_a_shard_with_one_wrong_byte(mount, tmp_path):
    with (mount.source / SHARD).open("r+b") as file:
        file.seek(20_000_000)
        file.write(b"\x01\x02\x03")
    message = refusal(lambda: read_all(open_mounted(mount, tmp_path)))
    assert "does not have the checksum it was published with" in message
    assert f"from {16 << 20}" in message


def test_a_version_without_its_manifest_is_not_published(mount, tmp_path):
    (mount.source / manifest.NAME).unlink()
    assert not open_mounted(mount, tmp_path).is_published


def test_a_shard_that_is_missing(mount, tmp_path):
    (mount.source / SHARD).unlink()
    message = refusal(lambda: open_mounted(mount, tmp_path))
    assert "No such file" in message


def test_a_file_that_must_not_be_read(mount, tmp_path):
    opened = open_mounted(mount, tmp_path)
    mount.set(denied=SHARD)
    message = refusal(lambda: read_all(opened))
    assert "Permission denied" in message


def test_a_mount_that_hangs_is_given_up_on(mount, tmp_path):
    opened = open_mounted(mount, tmp_path, timeout_seconds=0.5)
    mount.set(hang_seconds=60.0)
    start = time.monotonic()
    message = refusal(lambda: read_all(opened))
    assert time.monotonic() - start < 30
    assert "took more than 0.5 s: the mount or bucket does not answer" in message
    mount.set()


def test_a_fault_that_passes_is_waited_out(mount, tmp_path):
    opened = open_mounted(mount, tmp_path)
    mount.set(denied=SHARD)
    threading.Timer(0.3, mount.set).start()
    assert len(read_all(opened)) == NUM_TENSORS


def test_the_mount_is_one(mount):
    assert Path(mount.folder).is_mount()
