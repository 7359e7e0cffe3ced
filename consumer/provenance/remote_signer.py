"""Signs by a function of the deployment's own: a KMS, an HSM or a signing server in place of a key in a file.

The function takes the bytes to be signed and returns the signature: over SHA-256, SHA-384 or SHA-512 of them as the
certificate's key says (ES256, ES384, ES512), RSA-PSS over SHA-256 (PS256), or Ed25519. ECDSA signatures may be DER, as
KMSs return them, or the two numbers one after the other, as COSE has them (RFC 9053, 2.1).
"""

from __future__ import annotations

import importlib
import queue
import threading
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

SIGNER_S_MAX: Final = 10.0
"""How long one signature may take: a hundred times what a KMS takes."""
CALLS_MAX: Final = 4
"""Calls at a time. One that never returns keeps its place, so that hanging calls do not pile up."""
_NUMBER_BYTES: Final = {"es256": 32, "es384": 48, "es512": 66}


class RemoteSigner:
    """Calls `module:function` with a time limit, from any thread."""

    def __init__(self, named: str, algorithm: str) -> None:
        """Import the function. Raises `ValueError` where there is none."""
        module, _, name = named.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except Exception as error:  # importing runs the deployment's own code
            raise ValueError(f"the signer {named} cannot be imported ({error!r})") from error
        if not callable(function):
            raise ValueError(f"the signer {named} is no function")  # noqa: TRY004 - said of a setting
        self._function: Callable[[bytes], bytes] = function
        self._named = named
        self._number_bytes = _NUMBER_BYTES.get(algorithm)
        self._places = threading.Semaphore(CALLS_MAX)
        self.failure: str | None = None
        """Why the last call failed; c2pa itself tells only that one did."""

    def __call__(self, data: bytes) -> bytes:
        """Return the signature as COSE has it. Raises `RuntimeError`, and notes why in `failure`."""
        try:
            signature = self._as_cose(self._called(data))
        except Exception as error:
            self.failure = f"the signer {self._named} failed: {error}"
            raise RuntimeError(self.failure) from error
        self.failure = None
        return signature

    def _called(self, data: bytes) -> bytes:
        if not self._places.acquire(blocking=False):
            raise TimeoutError(f"{CALLS_MAX} calls of it have not returned")
        answers: queue.SimpleQueue[object] = queue.SimpleQueue()

        def work() -> None:
            try:
                answers.put(self._function(data))
            except BaseException as error:  # an exit is the function's failure, not the process's end
                answers.put(error)
            finally:
                self._places.release()

        threading.Thread(target=work, name="remote-signer", daemon=True).start()
        try:
            answer = answers.get(timeout=SIGNER_S_MAX)
        except queue.Empty:
            raise TimeoutError(f"it did not answer within {SIGNER_S_MAX:g} s") from None
        match answer:
            case bytes():
                return answer
            case BaseException():
                raise RuntimeError(f"{type(answer).__name__}: {answer}") from answer
            case _:
                raise TypeError(f"it returned {type(answer).__name__} in place of bytes")

    def _as_cose(self, signature: bytes) -> bytes:
        size = self._number_bytes
        if size is None or len(signature) == 2 * size:
            return signature
        r, s = decode_dss_signature(signature)
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
