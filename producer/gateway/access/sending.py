"""A problem as an answer of its own, for what stands before the routes and their handlers."""

from __future__ import annotations

import json

from starlette.types import Send

from darkroom.producer.gateway.problems import PROBLEM_CONTENT_TYPE, Problem


async def send_problem(problem: Problem, send: Send) -> None:
    """Answer with it."""
    content = json.dumps(problem.body()).encode()
    headers = {"Content-Type": PROBLEM_CONTENT_TYPE, "Content-Length": str(len(content)), **problem.headers}
    await send(
        {
            "type": "http.response.start",
            "status": problem.status.value,
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": content})
