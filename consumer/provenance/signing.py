"""Signs finished pictures on threads of its own, and says what became of it.

Signing takes milliseconds of the processor, in c2pa's own code, which lets other threads run. A timestamp authority
takes as long as it likes: so nothing here runs in the finish lane, whose waiting would stop the device, and the wait
for the authority has a limit. While it does not answer, pictures are signed without its word.

A signature cannot be made twice: two of one picture differ (random salts). So a picture is signed once for each
rendering, and whoever stores it keeps what was signed until its outcome is decided.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog

from darkroom.inference.types import RenderedImage
from darkroom.producer.daemon_threads import DaemonThreads
from darkroom.producer.watched_file import WatchedFile
from darkroom.schemas.errors import SettingsError
from darkroom.schemas.events.completion import ContentCredentials
from darkroom.schemas.settings.provenance import ProvenanceSettings

if TYPE_CHECKING:
    from darkroom.consumer.provenance.certificate import Identity
    from darkroom.consumer.provenance.manifest import Embedded, Said, Writer

log = structlog.get_logger(__name__)

TIMESTAMP_S_MAX: Final = 5.0
"""How long the pictures of one request wait for the timestamp authority: about ten times what one takes to answer."""
TIMESTAMP_PAUSE_S: Final = 60.0
"""How long an authority that did not answer is left alone; meanwhile pictures are not held up by it."""
WAITING_THREADS_MAX: Final = 4
"""Requests whose pictures are dated at a time. c2pa itself gives an authority up after 30 s, so no thread is lost."""
RELOAD_S: Final = 5.0
"""How long a changed certificate may go unnoticed; looking costs one stat call."""
NOT_INSTALLED: Final = (
    "Content credentials need darkroom[provenance]: install it, or leave DARKROOM_PROVENANCE__CERT_FILE out."
)


class CannotSign(Exception):  # noqa: N818 - named for what happened
    """Pictures cannot be signed now: one sentence with the remedy."""


class PictureNotSigned(Exception):  # noqa: N818 - as above
    """This one picture cannot be signed, and others can."""


@dataclass(frozen=True, slots=True)
class Signed:
    """The pictures of a request as they are to be stored."""

    images: tuple[RenderedImage, ...]
    unsigned_sha256: tuple[str, ...] = ()
    """The digest of each picture before it was signed; empty where none was."""
    provenance: ContentCredentials | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proved:
    """An identity that has signed."""

    subject: str
    algorithm: str
    digest: str
    not_after: datetime
    is_dated: bool | None
    """None without a timestamp authority."""


def signing_of(settings: ProvenanceSettings) -> Signing | None:
    """Return what signs pictures; None where no certificate is set. Raises `SettingsError`."""
    return None if settings.cert_file is None else Signing(settings)


class Signing:
    """Signs the pictures of requests as the settings' identity, which is read again when its file changes.

    Invariants:

    - `nothing_unsigned_if_required`: in the mode `required` `signed` returns signed pictures or raises.
    - `no_picture_waits_for_an_authority`: for longer than `TIMESTAMP_S_MAX`, whatever the timestamp authority does.
    """

    def __init__(
        self,
        settings: ProvenanceSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        timestamp_s_max: float = TIMESTAMP_S_MAX,
    ) -> None:
        """Read the certificate and the key, and sign a probe.

        Raises `SettingsError` in the mode `required` where they cannot sign. `best_effort` goes on without, and looks
        again whenever something is to be signed.
        """
        self._settings = settings
        self._clock = clock
        self._wall = wall
        self._timestamp_s_max = timestamp_s_max
        self._threads = DaemonThreads(WAITING_THREADS_MAX, "timestamped-signing")
        self._authority_away_until = float("-inf")
        self._file: WatchedFile[_Loaded] | None = None
        self._looked_at = clock()
        self._flaw: CannotSign | None = None
        """Why the certificate could not be used when it was looked at last."""
        self._watch()
        if self._flaw is not None:
            if self.is_required:
                raise SettingsError(
                    f"{self._flaw} DARKROOM_PROVENANCE__CERT_FILE and __KEY_FILE name the pair; with "
                    "DARKROOM_PROVENANCE__MODE=best_effort a worker starts all the same, and signs nothing."
                ) from self._flaw
            log.warning("pictures are not signed", error=str(self._flaw))

    @property
    def is_required(self) -> bool:
        """True if no picture may be stored unsigned."""
        return self._settings.mode == "required"

    @property
    def names_requests(self) -> bool:
        """True if credentials name the request by its digest."""
        return self._settings.request_digest

    async def signed(self, images: Sequence[RenderedImage], said: Said) -> Signed:
        """Sign the pictures of one request.

        Raises `CannotSign` in the mode `required` where nothing can be signed now, and `PictureNotSigned` where this
        picture cannot be. In `best_effort` the pictures are then returned as they came, with a warning.
        """
        try:
            return await self._signed(images, said)
        except (CannotSign, PictureNotSigned) as error:
            if self.is_required:
                raise
            return Signed(tuple(images), warnings=(f"not signed with content credentials: {error}",))

    async def prove(self) -> Proved:
        """Sign a small picture, dated if an authority is set. Raises `CannotSign`."""
        from darkroom.consumer.provenance.manifest import PROBE, Said

        loaded = await self._current()
        probe = RenderedImage(PROBE, 1, 1, 0, "image/png", "png")
        is_dated = None
        if loaded.dated is not None:
            is_dated = await self._dated(loaded.dated, (probe,), Said("probe", "probe")) is not None
        identity = loaded.identity
        return Proved(identity.subject, identity.algorithm, identity.digest, identity.not_after, is_dated)

    async def _signed(self, images: Sequence[RenderedImage], said: Said) -> Signed:
        loaded = await self._current()
        made: _Made | None = None
        warnings: list[str] = []
        if loaded.dated is not None:
            made = await self._dated(loaded.dated, images, said)
            if made is None:
                warnings.append(
                    f"signed without a timestamp: the authority {self._settings.timestamp_url} did not give one"
                )
        dated = made is not None
        if made is None:
            made = await self._undated(loaded, images, said)
        if made.left_out:
            warnings.append(
                f"the content credentials do not name {', '.join(made.left_out)}: c2pa cannot read that picture"
            )
        identity = loaded.identity
        return Signed(
            tuple(replace(image, content=content) for image, content in zip(images, made.contents, strict=True)),
            made.unsigned,
            ContentCredentials(
                signer=identity.subject[:200],
                algorithm=identity.algorithm,
                certificate=identity.digest,
                timestamped=dated,
            ),
            tuple(warnings),
        )

    async def _dated(self, writer: Writer, images: Sequence[RenderedImage], said: Said) -> _Made | None:
        """Return the pictures with dated signatures; None where the authority did not date them in time."""
        if self._clock() < self._authority_away_until:
            return None
        try:
            async with asyncio.timeout(self._timestamp_s_max):
                return await self._threads.run(_made, writer, images, said)
        except MemoryError:
            raise
        except Exception as error:  # c2pa names no exception of its own for the authority: signing without it will tell
            self._authority_away_until = self._clock() + TIMESTAMP_PAUSE_S
            log.warning(
                "no timestamp",
                authority=self._settings.timestamp_url,
                error=str(error) or type(error).__name__,
                paused_s=TIMESTAMP_PAUSE_S,
            )
            return None

    async def _undated(self, loaded: _Loaded, images: Sequence[RenderedImage], said: Said) -> _Made:
        try:
            return await asyncio.to_thread(_made, loaded.undated, images, said)
        except MemoryError:
            raise
        except Exception as error:  # whatever it is, it must end neither the worker nor the request without a word
            await asyncio.to_thread(_try, loaded)
            self._authority_away_until = float("-inf")  # it was the picture that could not be dated
            raise PictureNotSigned(f"c2pa does not sign this picture ({error})") from error

    async def _current(self) -> _Loaded:
        """Return the identity in force. Raises `CannotSign`."""
        if self._file is None and self._clock() - self._looked_at >= RELOAD_S:
            self._looked_at = self._clock()
            await asyncio.to_thread(self._watch)
        if self._file is None:
            raise CannotSign(str(self._flaw))
        loaded = await self._file.current()
        flaw = loaded.identity.flaw(self._wall())
        if flaw is not None:
            raise CannotSign(flaw)
        return loaded

    def _watch(self) -> None:
        """Begin to watch the certificate, or note why it cannot sign."""
        if not is_installed():
            self._flaw = CannotSign(NOT_INSTALLED)
            return
        from darkroom.consumer.provenance.certificate import NO_CERTIFICATES, PEM_BYTES_MAX, CertificateError

        assert self._settings.cert_file is not None
        try:
            self._file = WatchedFile(
                self._settings.cert_file, self._load, bytes_max=PEM_BYTES_MAX, reload_s=RELOAD_S, clock=self._clock
            )
        except SettingsError as error:
            cause = error.__cause__
            if isinstance(cause, UnicodeDecodeError):
                cause = CertificateError(NO_CERTIFICATES)
            self._flaw = CannotSign(str(cause if isinstance(cause, CertificateError) else error))

    def _load(self, chain: str) -> _Loaded:
        """Return the writers of a chain and the settings' key. Raises `ValueError`."""
        import c2pa

        from darkroom.consumer.provenance.certificate import CertificateError, read_identity
        from darkroom.consumer.provenance.manifest import Writer

        identity = read_identity(chain.encode(), self._settings.key_file, self._settings.signer)
        flaw = identity.flaw(self._wall())
        if flaw is not None:
            raise CertificateError(flaw)
        try:
            undated = Writer(identity)
            undated.probe()
            url = self._settings.timestamp_url
            return _Loaded(identity, undated, None if url is None else Writer(identity, url))
        except c2pa.C2paError as error:
            raise CertificateError(f"c2pa does not sign as {identity.subject} ({_why(identity, error)})") from error


def is_installed() -> bool:
    """Return True if pictures can be signed and checked here: `darkroom[provenance]` is installed."""
    from importlib.util import find_spec

    return find_spec("c2pa") is not None


@dataclass(frozen=True, slots=True)
class _Loaded:
    identity: Identity
    undated: Writer
    dated: Writer | None
    """Asks the timestamp authority; None without one."""


@dataclass(frozen=True, slots=True)
class _Made:
    contents: tuple[bytes, ...]
    unsigned: tuple[str, ...]
    left_out: tuple[str, ...]


def _made(writer: Writer, images: Sequence[RenderedImage], said: Said) -> _Made:
    """Sign each picture. Raises `c2pa.C2paError`."""
    embedded: list[Embedded] = [writer.embed(image.content, image.content_type, said) for image in images]
    return _Made(
        tuple(one.content for one in embedded),
        tuple(hashlib.sha256(image.content).hexdigest() for image in images),
        embedded[0].left_out if embedded else (),
    )


def _why(identity: Identity, error: Exception) -> str:
    """Return why something was not signed: c2pa does not tell what a signer of the deployment's own said."""
    return (identity.signer and identity.signer.failure) or str(error)


def _try(loaded: _Loaded) -> None:
    """Raise `CannotSign` where not even the probe can be signed."""
    import c2pa

    try:
        loaded.undated.probe()
    except c2pa.C2paError as error:
        why = _why(loaded.identity, error)
        raise CannotSign(f"c2pa signs nothing with this certificate any more ({why})") from error
