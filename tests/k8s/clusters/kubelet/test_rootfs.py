"""The tree that a container sees."""

from __future__ import annotations

from k8s.clusters.kubelet.rootfs import Layout, Mount, layout


class FakeMachine:
    """A tree in a dict: None is a file, text a link, a dict a folder."""

    def __init__(self, tree):
        self.tree = tree

    def _at(self, path):
        found = self.tree
        for name in path.strip("/").split("/") if path != "/" else ():
            found = found.get(name) if isinstance(found, dict) else None
        return found

    def entries(self, folder):
        return sorted(self._at(folder))

    def link(self, path):
        found = self._at(path)
        return found if isinstance(found, str) else None

    def is_folder(self, path):
        return isinstance(self._at(path), dict)


TREE = {
    "bin": "usr/bin",
    "usr": {"bin": {}},
    "proc": {"1": {}},
    "etc": {"hosts": None, "passwd": None, "ssl": {"certs": {}}},
    "tmp": {"junk": None},
    "var": {"cache": {"apt": {}}, "log": {}, "run": "/run"},
    "run": {"lock": {}},
}


def made(*targets):
    mounts = {target: Mount(f"/pod{target}", target, read_only=False) for target in targets}
    return layout(mounts, FakeMachine(TREE))


def places(found: Layout):
    return {mount.target: mount.source for mount in found.mounts}


def test_folders_without_a_mount_in_them_are_mounted_whole_and_read_only():
    found = made()
    assert places(found) == {path: path for path in ("/usr", "/etc", "/tmp", "/var", "/run")}
    assert all(mount.read_only for mount in found.mounts)
    assert found.links == {"/bin": "usr/bin"}


def test_a_mount_hides_what_the_machine_has_there():
    assert places(made("/tmp"))["/tmp"] == "/pod/tmp"


def test_the_other_entries_of_a_folder_with_a_mount_in_it_stay():
    found = made("/etc/antipode", "/etc/hosts", "/var/cache/antipode")
    assert found.folders == ["/etc", "/var", "/var/cache"]
    assert places(found) == {
        "/usr": "/usr",
        "/tmp": "/tmp",
        "/run": "/run",
        "/etc/passwd": "/etc/passwd",
        "/etc/ssl": "/etc/ssl",
        "/etc/hosts": "/pod/etc/hosts",
        "/etc/antipode": "/pod/etc/antipode",
        "/var/log": "/var/log",
        "/var/cache/apt": "/var/cache/apt",
        "/var/cache/antipode": "/pod/var/cache/antipode",
    }


def test_a_mount_within_a_mount_comes_after_it():
    targets = [mount.target for mount in made("/tmp/a/b", "/tmp").mounts]
    assert targets.index("/tmp") < targets.index("/tmp/a/b")


def test_the_kernels_own_processes_are_never_mounted():
    assert not any(mount.target.startswith("/proc") for mount in made("/tmp").mounts)


def test_a_mount_behind_a_link_of_the_machine_is_where_the_link_leads():
    found = made("/var/run/secrets/token")
    assert found.folders == ["/run"]
    assert places(found)["/run/secrets/token"] == "/pod/var/run/secrets/token"
    assert places(found)["/run/lock"] == "/run/lock"
