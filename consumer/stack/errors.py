"""The one error of the embedded stack."""


class StackError(Exception):
    """Something about the stack cannot be done.

    The text says what happened, to which part, and what to do about it, in a sentence or two. Where a server
    died, the last lines of its log follow.
    """
