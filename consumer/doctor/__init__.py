"""Checks what a worker needs before it is started."""
