"""Every bound of the core in one place. The settings of the same names carry the defaults' reasons."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and waits. Seconds are seconds of the core's clock."""

    batch_rows_max: int = 8
    """Rows that share a step, at the most; a shape's own cap may be less."""
    ahead_rows_max: int = 4
    """Rows handed to the engine beyond the batch, so that a place that falls free is taken at that very boundary; never
    more than half of the batch's cap, or one."""
    oom_probe_s: float = 300.0
    """How long a batch that ran out of memory stays halved before a larger one is tried. A failed try costs one step,
    and the wait then doubles, up to sixteen times this one."""
    begin_ahead_rows_max: int = 64
    """Rows being looked up or waiting for the journal's commit, on a fast device; on a slow one a batch is enough."""
    prepare_ahead_rows_max: int = 8
    """Rows being prepared or ready: what the device takes next. They hold embeddings and latents."""
    linger_s: float = 0.005
    """How long an empty device waits for a second row, and only while one is being prepared."""
    backlog_s: float = 10.0
    """Device seconds of waiting work above which throughput counts and latency no longer does: batches grow to the
    size of the best throughput until the backlog is gone."""
    key_switch_s: float = 2.0
    """How long a ready row of another batch key is passed over before the device is left to empty for it."""
    ageing_s: float = 10.0
    """How many seconds of waiting weigh as much as one level of priority."""
    waiting_rows_max: int = 2000
    """Rows received and not started; beyond it partitions are paused. Shared out evenly over the partitions."""
    waiting_bytes_max: int = 64 * 1024 * 1024
    """The bytes of those records: 64 of the largest."""
    offset_window: int = 512
    """How far a started offset may be above the committed one, so that the map always fits the metadata."""
    unsettled_bytes_max: int = 256 * 1024 * 1024
    """Finished pictures that wait for the store; beyond it no row joins the device."""
    publish_jobs_max: int = 64
    """Completions in one transaction, so that it stays short."""
    idle_commit_s: float = 0.5
    """How long the position may be ahead of the commit with nothing unfinished (control records, gaps)."""
    drain_s: float = 30.0
    """How long a drain may take before the rest is left to another worker."""
    attempts_max: int = 3
    """How often a row may fail alone, or its worker crash with it alone, before its request is failed."""
    backoff_s_min: float = 0.2
    """The first wait after the store or Kafka failed; it doubles."""
    backoff_s_max: float = 10.0
    cancellations_max: int = 10_000
    """Cancellations remembered for requests that have not come yet; the oldest are forgotten first."""

    def backoff_s(self, failures: int, jitter: float) -> float:
        """Return the wait after this many failures in a row: doubling, bounded, spread by `jitter` over its upper half.

        `jitter` is a worker's own place between 0 and 1, so that a fleet does not retry in step.
        """
        full: float = min(self.backoff_s_max, self.backoff_s_min * 2.0 ** min(failures - 1, 30))
        return full * (0.5 + 0.5 * jitter)
