"""The prompt policy in force: the same file for gateways and workers, read again when it changes.

Its `classifier = "module:function"` is asked where the block list has nothing against a prompt. The function takes the
prompt and the negative prompt (a text or None) and returns None or a category. It is called on a thread, with a time
limit; its failing follows the policy's `on_classifier_error`, under the category `classifier_failed`. A module is
imported once: another version of its code needs a restart, or another name.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import structlog

from darkroom.producer.daemon_threads import DaemonThreads
from darkroom.producer.watched_file import WatchedFile
from darkroom.schemas.prompts.picture_rules import CATEGORY_PATTERN, PictureRules
from darkroom.schemas.prompts.policy import POLICY_BYTES_MAX, PromptPolicy, Rejection, parse_policy
from darkroom.schemas.settings.policy import PolicySettings

log = structlog.get_logger(__name__)

Classifier = Callable[[str, str | None], str | None]
LookAt = Callable[[Any], Any]
"""A classifier of pictures (`darkroom.consumer.safety.classifiers` says what it takes and returns)."""


class JudgedBy(NamedTuple):
    """The rules for pictures in force, and the classifier that they name."""

    rules: PictureRules
    version: str
    look_at: LookAt


CLASSIFIER_FAILED: Final = "classifier_failed"
"""The category of prompts that could not be classified, where those are rejected."""
OTHER: Final = "other"
"""The category where the classifier's own is none."""


class PolicyFile:
    """Judges prompts. One for a process."""

    def __init__(
        self,
        settings: PolicySettings,
        *,
        on_rejected: Callable[[str], None] = lambda _category: None,
        on_reload_failed: Callable[[], None] = lambda: None,
        load_pictures: Callable[[PictureRules], LookAt] | None = None,
    ) -> None:
        """`on_rejected` is told each rejection's category. `load_pictures` returns the classifier that the rules for
        pictures name, and raises `ValueError`; without it nobody asks for `pictures`.

        Raises `SettingsError` for a file that cannot be used.
        """
        self._on_rejected = on_rejected
        self._timeout_s = settings.classifier_timeout_s
        self._threads = DaemonThreads(settings.classifier_threads_max, "prompt-classifier")
        self._file: WatchedFile[_Loaded] | None = None
        if settings.file is not None:
            self._file = WatchedFile(
                settings.file,
                lambda text: _load(text, load_pictures),
                bytes_max=POLICY_BYTES_MAX,
                reload_s=settings.reload_s,
                on_failure=on_reload_failed,
            )

    @property
    def judges(self) -> bool:
        """True if a policy file is set, False if every prompt is painted."""
        return self._file is not None

    @property
    def judges_pictures(self) -> bool:
        """True if the policy that was read last has finished pictures judged."""
        return self._file is not None and self._file.latest[0].pictures is not None

    async def judge(self, prompt: str, negative_prompt: str | None = None) -> Rejection | None:
        """Why a prompt is not painted; None where it is. Never raises."""
        if self._file is None:
            return None
        policy, classifier, _ = await self._file.current()
        rejection = policy.judge(prompt)
        if rejection is None and classifier is not None:
            rejection = await self._classified(policy, classifier, prompt, negative_prompt)
        if rejection is not None:
            self._on_rejected(rejection.category)
        return rejection

    async def pictures(self) -> JudgedBy | None:
        """Return who judges pictures at this moment; None where nobody does."""
        if self._file is None:
            return None
        policy, _, look_at = await self._file.current()
        return (
            None if policy.pictures is None or look_at is None else JudgedBy(policy.pictures, policy.version, look_at)
        )

    async def _classified(
        self, policy: PromptPolicy, classifier: Classifier, prompt: str, negative_prompt: str | None
    ) -> Rejection | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                category = await self._threads.run(classifier, prompt, negative_prompt)
        except Exception as error:  # the deployment's own code may raise anything
            # Its message may quote the prompt, which belongs to the requester and into no log.
            log.warning("the prompt classifier failed", classifier=policy.classifier, error=type(error).__name__)
            return Rejection(CLASSIFIER_FAILED, policy.version) if policy.rejects_on_classifier_error else None
        if category is None:
            return None
        if not isinstance(category, str) or not re.fullmatch(CATEGORY_PATTERN, category):
            category = OTHER
        return Rejection(category, policy.version)


_Loaded = tuple[PromptPolicy, Classifier | None, LookAt | None]


def _load(text: str, load_pictures: Callable[[PictureRules], LookAt] | None) -> _Loaded:
    """Return a policy and its classifiers. Raises `ValueError`."""
    policy = parse_policy(text)
    look_at = None
    if policy.pictures is not None and load_pictures is not None:
        look_at = load_pictures(policy.pictures)
    return policy, None if policy.classifier is None else imported(policy.classifier), look_at


def imported(classifier: str) -> Callable[..., Any]:
    """Return the deployment's own function, written module:function. Raises `ValueError`."""
    module, _, name = classifier.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # importing runs the deployment's own code
        raise ValueError(f"its classifier {classifier} cannot be imported ({error!r})") from error
    if not callable(function):
        raise ValueError(f"its classifier {classifier} is no function")  # noqa: TRY004 - said of the file
    return cast("Callable[..., Any]", function)
