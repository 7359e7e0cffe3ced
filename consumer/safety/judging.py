"""Judges the pictures of a request by the policy in force, between painting and storing.

Runs on threads behind the finish lane, as signing does: a classifier that hangs keeps a request waiting, and neither
the device nor the event loop.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from darkroom.consumer.safety.classifiers import ClassifierAway, Seen, seen_in
from darkroom.inference.types import RenderedImage
from darkroom.producer.daemon_threads import DaemonThreads
from darkroom.producer.policy.policy_file import CLASSIFIER_FAILED, OTHER, JudgedBy, PolicyFile
from darkroom.schemas.events.completion import FLAGS_MAX, Flag
from darkroom.schemas.prompts.picture_rules import CATEGORY_PATTERN
from darkroom.schemas.settings.policy import PolicySettings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on the pictures of one request."""

    flagged: tuple[Flag, ...] | None = None
    """None where nobody looked at all of them."""
    rejection: str | None = None
    """Why they are not stored: one sentence."""
    warnings: tuple[str, ...] = ()


class Judging:
    """Judges pictures. One for a process."""

    def __init__(
        self,
        policy: PolicyFile,
        settings: PolicySettings,
        on_flagged: Callable[[str, str], None] = lambda _category, _verdict: None,
    ) -> None:
        """`on_flagged` is told each category that was seen, and `rejected` or `stored`."""
        self._policy = policy
        self._timeout_s = settings.picture_timeout_s
        self._threads = DaemonThreads(settings.picture_threads_max, "picture-classifier")
        self._on_flagged = on_flagged

    def shows_previews(self) -> bool:
        """Return whether rough pictures may be shown before the finished ones were judged: not if these are judged."""
        return not self._policy.judges_pictures

    async def judged(self, images: Sequence[RenderedImage]) -> Judged:
        """Return the verdict on a request's pictures, all or nothing.

        Raises `ClassifierAway` where the policy wants each picture looked at, and the classifier does not answer now.
        """
        by = await self._policy.pictures()
        if by is None:
            return Judged()
        flagged: list[Flag] = []
        for number, image in enumerate(images):
            try:
                seen = await self._seen(by, image)
            except ClassifierAway as error:
                if by.rules.is_required:
                    raise
                return Judged(warnings=(f"nobody looked at the pictures: {error}",))
            except MemoryError:
                raise
            except Exception as error:  # the deployment's own code may raise anything
                # Its message may quote what belongs to the requester, and into no log.
                log.warning("the classifier of pictures failed", error=type(error).__name__)
                if not by.rules.is_required:
                    return Judged(
                        warnings=(f"nobody looked at the pictures: the classifier failed at picture {number}",)
                    )
                self._on_flagged(CLASSIFIER_FAILED, "rejected")
                return Judged(rejection=_said((CLASSIFIER_FAILED,), by.version))
            flagged += [_flag(number, category, score) for category, score in seen.items()]
        blocked = list(dict.fromkeys(flag.category for flag in flagged if by.rules.blocks(flag.category)))
        for flag in flagged:
            self._on_flagged(flag.category, "rejected" if blocked else "stored")
        # What decided comes first, should there be more than fit.
        flagged.sort(key=lambda flag: flag.category not in blocked)
        return Judged(tuple(flagged[:FLAGS_MAX]), _said(blocked, by.version) if blocked else None)

    async def _seen(self, by: JudgedBy, image: RenderedImage) -> Seen:
        try:
            async with asyncio.timeout(self._timeout_s):
                return seen_in(await self._threads.run(by.look_at, image))
        except TimeoutError as error:
            raise ClassifierAway(
                f"The classifier of pictures did not answer within {self._timeout_s:g} s "
                "(DARKROOM_POLICY__PICTURE_TIMEOUT_S)."
            ) from error


def _said(categories: Sequence[str], version: str) -> str:
    return f"The picture is not allowed here: category {', '.join(categories)}, policy version {version}."


def _flag(number: int, category: str, score: float | None) -> Flag:
    if not re.fullmatch(CATEGORY_PATTERN, category):
        category = OTHER
    return Flag(image=number, category=category, score=score if score is not None and math.isfinite(score) else None)
