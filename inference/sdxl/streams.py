"""Lets three lanes share one GPU without waiting for each other: a stream for each lane, and events between them.

On a CPU all of this does nothing, because a CPU's operations are done when their call returns.

CUDA's rules: work on one stream runs in order; work on two streams is ordered by events alone; memory that was
allocated on one stream and is read on another must be registered there (`record_stream`), or the allocator may reuse it
while it is still being read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


class LaneStream:
    """One lane's queue of work on a device."""

    def __init__(self, device: torch.device) -> None:
        make: Any = torch.cuda.Stream
        self._stream: torch.cuda.Stream | None = make(device) if device.type == "cuda" else None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Send this thread's work to the lane's stream, without gradients. Launched work may outlast the block."""
        with torch.inference_mode():
            if self._stream is None:
                yield
            else:
                with torch.cuda.stream(self._stream):
                    yield

    @contextmanager
    def completed(self) -> Iterator[None]:
        """Enter the stream and, at the end of the block, wait for the launched work: any thread or stream may then read
        it."""
        with self.entered():
            yield
            self.wait()

    def wait(self) -> None:
        """Wait until all work launched here is complete. Blocks this thread, not the device."""
        if self._stream is not None:
            self._stream.synchronize()

    def mark(self) -> torch.cuda.Event | None:
        """Return a mark that is reached once all work launched here so far is complete; None on a CPU."""
        if self._stream is None:
            return None
        # `blocking`: a waiting thread sleeps instead of spinning on a core that another lane needs.
        make: Any = torch.cuda.Event
        event: torch.cuda.Event = make(blocking=True)
        event.record(self._stream)
        return event

    def read(self, tensors: Sequence[torch.Tensor], after: torch.cuda.Event | None = None) -> None:
        """Let work launched here from now on read `tensors` of another stream, once `after` is reached."""
        if self._stream is None:
            return
        if after is not None:
            self._stream.wait_event(after)
        for tensor in tensors:
            if tensor.is_cuda:
                tensor.record_stream(self._stream)


class Staging:
    """Pinned host memory from which a GPU fetches each step's new inputs without blocking a thread.

    Each name has two buffers, used alternately: the step before the last is complete before a step is laid out
    (`darkroom.inference.sdxl.denoise.step`), so its buffer is free. On a CPU nothing is copied.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[tuple[str, int], torch.Tensor] = {}
        self._turns: dict[str, int] = {}

    def send(self, name: str, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Concatenate `parts`, fp32 on the CPU, along their first dimension, and return the result on the device."""
        if self._device.type != "cuda":
            return torch.cat(list(parts)).to(self._device)
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        turn = self._turns[name] = 1 - self._turns.get(name, 0)
        buffer = self._buffers.get((name, turn))
        size = torch.Size(shape).numel()
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name, turn] = torch.empty(size, dtype=torch.float32, pin_memory=True)
        staged = buffer[:size].view(shape)
        torch.cat(list(parts), out=staged)
        return staged.to(self._device, non_blocking=True)


def fetched(tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor` on the CPU, copied through pinned memory, which a GPU fills at full speed."""
    if not tensor.is_cuda:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host
