"""Small sequences and schedulers, with limits a test can count on its fingers."""

from __future__ import annotations

from hashlib import blake2b

from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.data_ranks import Ranks
from server.engine.policy.exact_choice import ExactChoice
from server.engine.policy.scheduler import Scheduler
from server.engine.policy.sequences.sequence import LoadedVersion, Sequence
from server.engine.policy.served_versions import ServedVersions
from server.engine.policy.step_choice import StepChoice
from server.engine.version_changes import VersionChanges
from server.link.images import PromptImage
from server.link.sampling import SamplingParams
from tests.engine.fakes import EOS


def make_sequence(
    prompt,
    *,
    received=(),
    request_id=0,
    index=0,
    arrival=0.0,
    deadline=None,
    source="",
    priority=0,
    ttft_seconds=None,
    version=None,
    adapter=None,
    params=None,
    pooling=None,
    images=(),
    **fields,
) -> Sequence:
    """`fields` are sampling parameters, unless `params` has them all."""
    return Sequence(
        seq_id=request_id * 100 + index,
        client=1,
        request_id=request_id,
        index=index,
        params=params or SamplingParams(**({"max_tokens": 8} | fields)),
        eos_token_ids=(EOS,),
        token_ids=[*prompt, *received],
        num_received_tokens=len(received),
        arrival=arrival,
        deadline=deadline,
        source=source,
        priority=priority,
        ttft_seconds=ttft_seconds,
        version=version,
        adapter=adapter,
        pooling=pooling,
        images=tuple(images),
    )


def make_image(start, num_tokens, content=b"an image") -> PromptImage:
    """An image of one pixel."""
    return PromptImage(
        start=start,
        num_tokens=num_tokens,
        height=1,
        width=1,
        pixels=content[:3],
        digest=blake2b(content).digest(),
    )


def make_choices(prompt, n, *, request_id=0, **params) -> list[Sequence]:
    return [
        make_sequence(prompt, request_id=request_id, index=index, **params) for index in range(n)
    ]


def is_all_free(blocks: BlockManager) -> bool:
    return all(pool.num_free_blocks == pool.num_usable_blocks for pool in blocks.pools)


def make_blocks(num_blocks, block_size, **options) -> BlockManager:
    """Of layers that all keep whole sequences."""
    return BlockManager((KVKind(None, num_blocks),), block_size, **options)


def make_scheduler(
    *,
    num_blocks=32,
    kinds=None,
    block_size=4,
    prefix_caching=True,
    max_num_seqs=4,
    max_num_batched_tokens=8,
    max_queue_len=8,
    max_model_len=64,
    versions=None,
    adapters=None,
    exact=False,
    choice=None,
    speculation=None,
    num_host_blocks=(),
    image_tokens=0,
) -> Scheduler:
    return Scheduler(
        BlockManager(
            kinds or (KVKind(None, num_blocks),),
            block_size,
            prefix_caching=prefix_caching,
            chunk=max_num_batched_tokens if exact else 0,
            num_host_blocks=num_host_blocks,
        ),
        choice=choice or (ExactChoice if exact else StepChoice),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_queue_len=max_queue_len,
        max_model_len=max_model_len,
        versions=versions or ServedVersions(LoadedVersion()),
        adapters=adapters,
        speculation=speculation,
        image_tokens=image_tokens,
    )


def make_ranks(**limits) -> Ranks:
    """A single rank, as `make_scheduler` makes it."""
    return Ranks([make_scheduler(**limits)])


def serve(scheduler, version: LoadedVersion | None) -> None:
    """Put a version on the device and serve it; on None requests wait."""
    changes = VersionChanges(scheduler)
    if version is None:
        changes.hold()
        return
    changes.versions.add(version)
    changes.serve(version)
