"""Which files one worker of pytest-xdist runs: those of a folder that compile the same programs.

Two workers that compile a program at the same time both pay for it: neither finds it in the cache
yet. Any other file is run by whichever worker is free. Imported by the controller only.
"""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

TOGETHER = ("tests/engine/device/", "tests/engine/programs/")


class SharedPrograms(LoadFileScheduling):
    """As `--dist loadfile`, except for the folders of `TOGETHER`."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def scope_of(nodeid: str) -> str:
    """The folder or file of a test, by whose name its worker is chosen."""
    file = nodeid.split("::", 1)[0]
    return next((folder for folder in TOGETHER if file.startswith(folder)), file)
