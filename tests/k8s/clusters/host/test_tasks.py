"""Tasks in the background."""

from __future__ import annotations

import asyncio

from k8s.clusters.host.tasks import in_background


async def fail():
    raise KeyError("a token")


async def wait_for(work):
    await asyncio.gather(in_background(work), return_exceptions=True)
    # The callback that prints comes after the task's end.
    await asyncio.sleep(0)


def test_what_ends_a_task_is_printed(capsys):
    asyncio.run(wait_for(fail()))
    assert "KeyError: 'a token'" in capsys.readouterr().err
