"""Whether a request can be taken in at all; whether there is room for it now is not asked here."""

from __future__ import annotations

from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.sequences.sequence import Sequence
from server.link.frames import EngineErrorKind


class AdmissionError(Exception):
    """A request that cannot be taken in. `retry_after` is in seconds, 0 where the kind says it.

    `is_hopeless`: its time limit is too short for any server, however idle.
    """

    def __init__(
        self,
        kind: EngineErrorKind,
        message: str,
        *,
        retry_after: int = 0,
        is_hopeless: bool = False,
    ) -> None:
        super().__init__(message)
        self.is_hopeless = is_hopeless
        self.kind = kind
        self.message = message
        self.retry_after = retry_after


def check_admission(seq: Sequence, blocks: BlockManager, max_num_tokens: int, now: float) -> None:
    """AdmissionError for a sequence that could never run, or not in time.

    `max_num_tokens` is the longest that one may become.
    """
    num_known_tokens = len(seq.token_ids)
    num_tokens = num_known_tokens + min(1, seq.params.max_tokens)
    if not seq.num_prompt_tokens:
        raise AdmissionError("invalid_request", "the prompt is empty")
    if num_tokens > blocks.max_num_tokens:
        raise AdmissionError(
            "invalid_request",
            f"a prompt of {num_known_tokens} tokens needs {blocks.num_blocks_for(num_tokens)} "
            f"KV blocks of {blocks.block_size} tokens, but there are "
            f"{blocks.num_blocks_for(blocks.max_num_tokens)}",
        )
    if num_tokens > max_num_tokens:
        raise AdmissionError(
            "invalid_request",
            f"a prompt of {num_known_tokens} tokens leaves no room for another "
            f"in the limit of {max_num_tokens}",
        )
    if seq.deadline is not None and seq.deadline <= now:
        raise AdmissionError(
            "deadline_exceeded", "the deadline passed before the request ran", is_hopeless=True
        )
