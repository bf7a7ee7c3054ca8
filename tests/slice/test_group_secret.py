"""Which groups need a secret, and which files have one."""

from __future__ import annotations

import pytest

from server.config.engine_config import EngineConfig
from server.slice.group_secret import read_group_secret
from server.slice.host_group import Group, find_group
from server.slice.reported_slice import SliceMismatchError

APART = "10.0.0.1,10.0.0.2"


def secret_of(hosts, file=""):
    config = EngineConfig(hosts=hosts, host_index=1, group_secret_file=str(file))
    return read_group_secret(config, find_group(config, {}))


def test_hosts_outside_of_this_machine_do_not_start_without_a_secret():
    with pytest.raises(
        SliceMismatchError, match=r"meet at 10\.0\.0\.1, .*set group_secret_file to a file on every"
    ):
        secret_of(APART)


@pytest.mark.parametrize("hosts", ["localhost:9200,localhost", "127.0.0.1,127.0.0.1"])
def test_hosts_on_loopback_need_none(hosts):
    assert secret_of(hosts) == b""


def test_a_single_host_reads_no_secret():
    assert read_group_secret(EngineConfig(group_secret_file="/nowhere"), Group()) == b""


@pytest.mark.parametrize("hosts", [APART, "localhost,localhost"])
def test_white_space_around_a_secret_is_no_part_of_it(tmp_path, hosts):
    file = tmp_path / "secret"
    file.write_bytes(b"0123456789abcdef\r\n")
    assert secret_of(hosts, file) == b"0123456789abcdef"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has 0 bytes: write at least 16 random"),
        (b"short" + b" " * 100, "has 5 bytes"),
        (b"x" * 5000, "has more than 4096 bytes"),
    ],
)
def test_a_file_without_a_usable_secret_is_refused(tmp_path, content, words):
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(SliceMismatchError, match=words):
        secret_of(APART, file)


@pytest.mark.parametrize("name", ["", "missing"])
def test_what_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(SliceMismatchError, match="is not a file"):
        secret_of(APART, tmp_path / name)
