"""A server that answers S3 requests from a script: to break connections and lose answers as networks do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from darkroom.schemas.settings import S3Settings
from tests.constants import section_with
from tests.loopback import QuietHandler, served


@dataclass
class Answer:
    """What is sent back; `status` 0 breaks the connection without an answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None
    """Called first, so that a test can hold an answer back."""


@dataclass
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def s3_error(status: int, code: str) -> Answer:
    """An error as S3 servers write it."""
    body = f"<Error><Code>{code}</Code><Message>scripted</Message><Resource>/</Resource></Error>".encode()
    return Answer(status, body, {"Content-Type": "application/xml"})


class ScriptedServer:
    """Answers with the next of `answers`, and with the last one for ever after."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.seen: list[Seen] = []
        self.url = ""

    def settings(self, **more: object) -> S3Settings:
        """The settings that reach it, with short times."""
        values: dict[str, object] = {
            "endpoint": self.url,
            "access_key": "key",
            "secret_key": "secret",
            "bucket": "ours",
            "allowed_buckets": ("theirs",),
            "connect_timeout_s": 1.0,
            "read_timeout_s": 1.0,
            "threads": 4,
        }
        return section_with(S3Settings, **(values | more))


@contextlib.contextmanager
def serving(*answers: Answer) -> Iterator[ScriptedServer]:
    """A scripted server on a free port."""
    script = ScriptedServer(*answers)

    class Handler(QuietHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            script.seen.append(Seen(self.command, self.path, dict(self.headers), body))
            answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
            answer.before()
            if answer.status == 0:
                self.close_connection = True
                return
            if "Date" in answer.headers:
                self.send_response_only(answer.status)
            else:
                self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                with contextlib.suppress(OSError):  # a client may hang up when it has seen enough
                    self.wfile.write(answer.body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer  # noqa: N815 - the base class looks for these names

    with served(Handler) as script.url:
        yield script
