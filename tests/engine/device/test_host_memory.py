"""What is left of host memory: the machine's, or the container's limit where that is less."""

from __future__ import annotations

import pytest

from server.engine.device.host_memory import available_bytes

MIB = 1 << 20


def left(folder):
    """What is left on a machine with 500 MiB to spare."""
    machine = folder / "meminfo"
    machine.write_text(f"MemTotal: {900 << 10} kB\nMemAvailable:   {500 << 10} kB\n")
    return available_bytes(folder, machine)


def version_2(folder, limit):
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{40 * MIB}\n")
    (folder / "memory.stat").write_text(f"anon {20 * MIB}\ninactive_file {10 * MIB}\n")


def version_1(folder, limit):
    (folder / "memory").mkdir()
    (folder / "memory" / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory" / "memory.usage_in_bytes").write_text(f"{40 * MIB}\n")
    (folder / "memory" / "memory.stat").write_text(f"total_inactive_file {10 * MIB}\n")


@pytest.mark.parametrize("files", [version_2, version_1])
class TestInAContainer:
    def test_what_is_left_of_its_limit_and_what_the_kernel_would_give_back(self, tmp_path, files):
        files(tmp_path, 100 * MIB)
        assert left(tmp_path) == 70 * MIB

    def test_nothing_is_left_at_its_limit(self, tmp_path, files):
        files(tmp_path, 20 * MIB)
        assert left(tmp_path) == 0

    def test_a_limit_beyond_the_machine_is_none(self, tmp_path, files):
        files(tmp_path, 1 << 62)
        assert left(tmp_path) == 500 * MIB


def test_without_a_limit_it_is_the_machines(tmp_path):
    version_2(tmp_path, "max")
    assert left(tmp_path) == 500 * MIB


def test_without_control_groups_too(tmp_path):
    assert left(tmp_path) == 500 * MIB


def test_the_machine_that_runs_the_tests_has_memory_left():
    assert 0 < available_bytes() < 1 << 50
