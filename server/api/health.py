"""How the server is: whether it lives, whether it is ready, and its metrics.

Answers come from the engine's newest pulse and the lifecycle. Knows no request and no transport.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.api.load_reports import LoadReports
from server.lifecycle import Lifecycle, ServerState
from server.link.client import EngineClient
from server.start_clock import StartPhase


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthStatus:
    """An answer to a probe: `state` in one word, `detail` in a sentence, `progress` 0 to 1.

    While the engine starts, `phase` is where it is, for `phase_seconds`.
    """

    ok: bool
    state: str
    detail: str = ""
    progress: float = 0.0
    phase: StartPhase | None = None
    phase_seconds: float | None = None


class Health:
    """One per API process. `loads` reports how busy the engine is."""

    def __init__(
        self,
        engine: EngineClient,
        lifecycle: Lifecycle,
        *,
        hang_timeout_seconds: float,
        queue_stall_seconds: float,
    ) -> None:
        self._engine, self._lifecycle = engine, lifecycle
        self.loads = LoadReports(engine)
        self._hang_timeout_seconds = hang_timeout_seconds
        self._queue_stall_seconds = queue_stall_seconds

    def liveness(self) -> HealthStatus:
        """Whether the engine makes progress: false means that only a restart can help."""
        if self._engine.failure:
            return HealthStatus(ok=False, state="failed", detail=self._engine.failure)
        pulse, limit = self._engine.pulse, self._hang_timeout_seconds
        if (age := self._engine.pulse_age) > limit:
            return HealthStatus(
                ok=False, state="hung", detail=f"no sign of the engine for {age:.1f} s"
            )
        if pulse is not None and (age := pulse.progress_age) > limit:
            return HealthStatus(
                ok=False, state="hung", detail=f"no step has come round for {age:.1f} s"
            )
        return HealthStatus(ok=True, state="live", detail="the engine makes progress", progress=1.0)

    def readiness(self) -> HealthStatus:
        """Whether to send requests here: model loaded, engine alive, queue moving, not draining."""
        live = self.liveness()
        if not live.ok:
            return live
        state, pulse = self._lifecycle.state, self._engine.pulse
        if state is ServerState.READY and self._engine.info is not None:
            return self._serving()
        if state in (ServerState.DRAINING, ServerState.STOPPED):
            return HealthStatus(ok=False, state=state.value, detail="the server is shutting down")
        if pulse is None:
            return HealthStatus(ok=False, state="starting", detail="the engine process is starting")
        return HealthStatus(
            ok=False,
            state="starting",
            detail=pulse.detail,
            progress=pulse.progress,
            phase=pulse.phase,
            phase_seconds=pulse.phase_seconds,
        )

    def _serving(self) -> HealthStatus:
        limit, pulse = self._queue_stall_seconds, self._engine.pulse
        if pulse is not None and 0 < limit < pulse.queue_stall:
            detail = f"requests wait, and none has begun for {pulse.queue_stall:.1f} s"
            return HealthStatus(ok=False, state="stalled", detail=detail, progress=1.0)
        return HealthStatus(ok=True, state="ready", detail="the model is served", progress=1.0)

    def metrics(self) -> bytes:
        """The engine's newest exposition text; empty before its first pulse."""
        return self._engine.pulse.metrics if self._engine.pulse else b""
