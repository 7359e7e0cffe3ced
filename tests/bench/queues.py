"""What Darkroom is measured against under a load: one request after the other, and batches of whole requests."""

from __future__ import annotations

from collections.abc import Sequence

from darkroom.consumer.planner.topic import Arrival
from darkroom.inference.planning.profile import GUIDED_SLOTS, DeviceProfile
from tests.bench.one_worker import Run


def first_come_first_served(profile: DeviceProfile, arrivals: Sequence[Arrival]) -> Run:
    """Every request alone, in the order of arrival; pictures are decoded while the next is denoised."""
    return request_batches(profile, arrivals, cap=1, equal_steps=True)


def request_batches(profile: DeviceProfile, arrivals: Sequence[Arrival], *, cap: int, equal_steps: bool) -> Run:
    """Whenever the device is free, up to `cap` waiting requests of one size start together and end together.

    `equal_steps`: only requests of as many steps as the oldest one's go with it, since a pipeline call has one number
    of steps. Otherwise any go, and the longest decides when all are done.
    """
    run = Run([0.0] * len(arrivals))
    waiting: list[int] = []
    coming = list(range(len(arrivals)))
    free_at = decode_free_at = 0.0
    while waiting or coming:
        starts_at = free_at if waiting else max(free_at, arrivals[coming[0]].at_s)
        while coming and arrivals[coming[0]].at_s <= starts_at:
            waiting.append(coming.pop(0))
        batch = take_together(waiting, arrivals, cap, equal_steps=equal_steps)
        waiting = [one for one in waiting if one not in batch]
        seconds = _batch_seconds(profile, [arrivals[one] for one in batch])
        free_at = starts_at + seconds
        run.busy_s += seconds
        for one in batch:
            key = arrivals[one].batch_key
            decode_s = profile.decode_ms(key.latent_height, key.latent_width) / 1000
            decode_free_at = max(free_at, decode_free_at) + decode_s
            run.latencies_s[one] = decode_free_at - arrivals[one].at_s
    run.ended_at_s = decode_free_at
    return run


def take_together(waiting: Sequence[int], arrivals: Sequence[Arrival], cap: int, *, equal_steps: bool) -> list[int]:
    """The oldest that waits, and those that may go with it."""
    steps = arrivals[waiting[0]].request.steps
    fitting = [one for one in waiting if not equal_steps or arrivals[one].request.steps == steps]
    return fitting[:cap]


def _batch_seconds(profile: DeviceProfile, batch: Sequence[Arrival]) -> float:
    key = batch[0].batch_key
    slots = [GUIDED_SLOTS if one.request.guidance_scale > 1 else 1 for one in batch]
    posed = [count for one, count in zip(batch, slots, strict=True) if one.request.pose is not None]
    step_ms = profile.step_ms(key.latent_height, key.latent_width, unet_slots=sum(slots), control_slots=sum(posed))
    return max(one.request.steps for one in batch) * step_ms / 1000
