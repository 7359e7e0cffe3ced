"""moto's server, answering one request at a time: `python -m tests.strangers.moto_program HOST PORT`.

moto 5.2.5 looks whether an object is there and then writes it, on a thread for each connection. So now and then two
conditional puts of one moment both win, which `init` and `doctor` refuse, and rightly. With requests one after another
it does what S3 does.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.server import MotoRequestHandler
from werkzeug.serving import run_simple


class OneAtATime:
    """A WSGI application that nobody enters while somebody is inside."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._inside = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer as the application does."""
        with self._inside:
            return list(self._application(environ, start_response))


if __name__ == "__main__":
    served = OneAtATime(DomainDispatcherApplication(create_backend_app))
    run_simple(sys.argv[1], int(sys.argv[2]), served, threaded=True, request_handler=MotoRequestHandler)
