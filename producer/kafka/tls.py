"""TLS as a client: whom Kafka's and the store's connections trust, and what a handshake that failed means.

Servers are always verified, their certificate and their name. What OpenSSL and urllib3 raise is translated here, for
both edges, into a sentence that names the setting to change.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from darkroom.schemas.errors import SettingsError

log = logging.getLogger(__name__)

_WRONG_NAME: Final = frozenset({62, 63, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH, _EMAIL_MISMATCH and _IP_ADDRESS_MISMATCH, of OpenSSL's x509_vfy.h."""
_WRONG_TIME: Final = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_WANTS_OURS: Final = ("CERTIFICATE_REQUIRED", "ALERT_BAD_CERTIFICATE", "ALERT_HANDSHAKE_FAILURE")
"""Alerts to a client that shows no certificate: TLS 1.3's (RFC 8446 section 6.2), and what servers say in TLS 1.2."""
_REFUSES_OURS: Final = ("CERTIFICATE_UNKNOWN", "UNKNOWN_CA", "UNSUPPORTED_CERTIFICATE", "CERTIFICATE_EXPIRED")
"""Alerts about a certificate that was shown."""
_CAUSES_MAX: Final = 20


class TlsSettings(NamedTuple):
    """The variables that a sentence about one connection names."""

    peer: str
    """Who is at the other end: "Kafka"."""
    address: str
    """The variable with the peer's address."""
    authorities: str
    """The variable with the file of authorities to trust."""
    protection: str
    """What to check where one side speaks TLS and the other does not, as the end of "Check ..."."""
    certificate: str | None = None
    """The variables with the client's own certificate and key; None where there are none."""


KAFKA: Final = TlsSettings(
    peer="Kafka",
    address="DARKROOM_KAFKA__BOOTSTRAP_SERVERS",
    authorities="DARKROOM_KAFKA__SSL_CAFILE",
    protection="that DARKROOM_KAFKA__SECURITY_PROTOCOL is what it speaks there",
    certificate="DARKROOM_KAFKA__SSL_CERTFILE and __SSL_KEYFILE",
)
STORE: Final = TlsSettings(
    peer="the object store",
    address="DARKROOM_S3__ENDPOINT",
    authorities="DARKROOM_S3__CA_FILE",
    protection="whether DARKROOM_S3__ENDPOINT begins with http or https",
)
TOKENS: Final = TlsSettings(
    peer="the token service",
    address="DARKROOM_KAFKA__OAUTH_TOKEN_URL or __OAUTH_ISSUER",
    authorities="DARKROOM_KAFKA__OAUTH_CA_FILE",
    protection="whether DARKROOM_KAFKA__OAUTH_TOKEN_URL or __OAUTH_ISSUER begins with http or https",
)
API_SERVER: Final = TlsSettings(
    peer="Kubernetes",
    address="KUBERNETES_SERVICE_HOST",
    authorities="the service account's ca.crt",
    protection="that KUBERNETES_SERVICE_PORT is its API's",
)


class Trouble(NamedTuple):
    """Why there is no connection: what is wrong as the end of "... because", and the remedy as a sentence."""

    what: str
    remedy: str


def client_context(
    names: TlsSettings, authorities: Path | None, *, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """TLS that verifies the server's certificate and name, by the system's authorities unless others are given.

    All files are PEM, and are read again for the next connection once one of them has changed: certificates end, and
    what renews them writes the files in place. Connections that stand are left as they are.

    Raises `SettingsError` for a file that cannot be used, a key with a password among them: nobody is there to type it.
    """
    return _Renewed(names, authorities, certificate, key)


class _Renewed(ssl.SSLContext):
    """A context that makes each connection with what its files hold then.

    A new context is made inside for every change, since one context can be given further authorities and can never be
    relieved of any. Files that cannot be used, half written or not yet belonging together, leave in force what was read
    before; that is logged once for each change.
    """

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(
        self, names: TlsSettings, authorities: Path | None, certificate: Path | None, key: Path | None
    ) -> None:
        self._made_of = names, authorities, certificate, key
        self._files = [file for file in (authorities, certificate, key) if file is not None]
        self._versions = self._look()
        self._inner = _context(*self._made_of)

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """As the base class, on files as they are now: what asyncio calls for every connection."""
        return self._current().wrap_bio(*arguments, **named)

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        """As the base class, on files as they are now: what urllib3 calls for every connection."""
        return self._current().wrap_socket(*arguments, **named)

    def _current(self) -> ssl.SSLContext:
        versions = self._look()
        if versions != self._versions:
            self._versions = versions
            files = [str(file) for file in self._files]
            try:
                self._inner = _context(*self._made_of)
            except SettingsError as error:
                # A sentence is all there is to say: a traceback would tell of OpenSSL's inside.
                log.error("certificates are not read again, the old ones stay: %s (%s)", files, error)  # noqa: TRY400
            else:
                log.info("certificates were read again: %s", files)
        return self._inner

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_version(file) for file in self._files)


def _version(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _context(
    names: TlsSettings, authorities: Path | None, certificate: Path | None, key: Path | None
) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=authorities)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(
            f"The authorities to trust for {names.peer} cannot be loaded from {authorities} ({_said(error)}). Let "
            f"{names.authorities} name a PEM file of certificates."
        ) from error
    if certificate is not None:

        def no_password() -> str:
            raise SettingsError(
                f"The key {key} for {names.peer} has a password, and nobody is here to type it. Store it without one, "
                "readable for this user alone."
            )

        try:
            context.load_cert_chain(certificate, key, no_password)
        except OSError as error:
            raise SettingsError(
                f"This client's certificate for {names.peer} cannot be loaded from {certificate} and {key} "
                f"({_said(error)}). Let {names.certificate} name PEM files that belong together."
            ) from error
    return context


def trouble_of(names: TlsSettings, error: BaseException) -> Trouble | None:
    """Return what is wrong with TLS, where the error or one of its causes is TLS's; None where none is."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _unverified(names, cause)
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return _failed(names, cause.reason)
    return None


def _unverified(names: TlsSettings, error: ssl.SSLCertVerificationError) -> Trouble:
    said = error.verify_message.rstrip(".")
    if error.verify_code in _WRONG_NAME:
        return Trouble(
            f"its certificate is for another name ({said})",
            f"Let {names.address} have a name that the certificate has, or have one issued for this name.",
        )
    if error.verify_code in _WRONG_TIME:
        return Trouble(f"its certificate is not valid now ({said})", "Renew it there, or set this machine's clock.")
    return Trouble(
        f"nobody whom this client trusts vouches for its certificate ({said})",
        f"Let {names.authorities} name a PEM file with the certificate of the authority that signed it.",
    )


def _failed(names: TlsSettings, reason: str) -> Trouble:
    said = reason.replace("_", " ").lower()
    if names.certificate is not None and reason.endswith(_WANTS_OURS):
        return Trouble(
            f"it wants a certificate from this client ({said})",
            f"Let {names.certificate} name one that it trusts, and its key.",
        )
    if names.certificate is not None and reason.endswith(_REFUSES_OURS):
        return Trouble(
            f"it does not trust this client's certificate ({said})",
            f"Let {names.certificate} name one that is signed by an authority of its.",
        )
    return Trouble(
        f"the two sides did not agree on TLS ({said})", f"Check that it has TLS at this port, and {names.protection}."
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, then what led to it: Python's chain, and the exceptions that urllib3 wraps."""
    cause: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if cause is None:
            return
        yield cause
        wrapped = (getattr(cause, "reason", None), *cause.args)
        inner = next((one for one in wrapped if isinstance(one, BaseException)), None)
        cause = inner or cause.__cause__ or cause.__context__


def _said(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
