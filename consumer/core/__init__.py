"""Decisions without I/O: what the worker does next, as a function of what happened and when.

Rules that hold for every module here:

1. No asyncio, no clock, no logging, no randomness, no message or tensor library. Time is an argument, in
   seconds of a monotonic clock. A test keeps this.
2. `Core.handle(event, now)` takes one frozen event and returns frozen effects. Nobody else changes the state.
3. An event about an epoch, a job or a publication that is no longer current changes nothing.
"""
