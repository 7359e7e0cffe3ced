"""The classifiers of pictures that a policy can name: a function, a service over HTTP, or a diffusers safety checker.

Each is a function that takes one finished picture and returns what it saw: None or nothing for nothing, a category, an
iterable of categories, or a mapping of categories to scores. It is called on a thread that is not the event loop's,
with a time limit (`darkroom.consumer.safety.judging`).

A function of the deployment's own is named `module:function`, or by its name in the entry points of the group
`darkroom.picture_classifiers`. It is given a `RenderedImage`: `content` has the file's bytes.

A service gets a POST with the file as the body, its type in `Content-Type`, and answers 200 with JSON,
`{"categories": ["sexual"]}` or `{"categories": {"sexual": 0.93}}`; both empty for nothing. Nothing but the picture is
sent, which may have the prompt inside (`DARKROOM_PROVENANCE__PARAMETERS`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Final, cast

import urllib3

from darkroom.inference.types import RenderedImage
from darkroom.producer.policy.policy_file import imported
from darkroom.schemas.prompts.picture_rules import PictureRules

ENTRY_POINTS: Final = "darkroom.picture_classifiers"
ANSWER_BYTES_MAX: Final = 64 * 1024
"""Many times a verdict of 64 categories."""
CONNECT_S_MAX: Final = 5.0
READ_S_MAX: Final = 120.0
"""The most that `policy.picture_timeout_s` may be, which ends the wait earlier; this ends the thread."""

Seen = Mapping[str, float | None]
"""Categories, each with its score where there is one."""
LookAt = Callable[[RenderedImage], Any]


class ClassifierAway(Exception):  # noqa: N818 - nothing is wrong with the picture
    """The classifier does not answer now: one sentence. The same picture can be shown to it again."""


class VerdictUnreadable(Exception):  # noqa: N818 - named for what was found
    """A classifier's answer that is no verdict: one sentence."""


@lru_cache(maxsize=1)
def _loaded(source: tuple[str | None, str | None, str | None]) -> LookAt:
    """Return the classifier of a source. The latest is kept: weights are not read again for a change of categories."""
    classifier, url, checkpoint = source
    if classifier is not None:
        return imported(classifier) if ":" in classifier else _entry_point(classifier)
    if url is not None:
        return Service(url)
    assert checkpoint is not None
    from darkroom.inference.safety_checker import SafetyChecker

    return SafetyChecker(checkpoint)


def load(rules: PictureRules) -> LookAt:
    """Return the classifier that the rules name. Raises `ValueError` where it cannot be used."""
    return _loaded(rules.source)


def seen_in(answer: Any) -> Seen:
    """Return what a classifier's answer says. Raises `VerdictUnreadable`."""
    if answer is None:
        return {}
    if isinstance(answer, str):
        return {answer: None} if answer else {}
    if isinstance(answer, Mapping):
        return {_text(category): _score(score) for category, score in answer.items()}
    if isinstance(answer, Iterable) and not isinstance(answer, bytes):
        return {_text(category): None for category in answer}
    raise VerdictUnreadable(f"it answered with a {type(answer).__name__}, which is no category")


def _text(category: Any) -> str:
    if not isinstance(category, str):
        raise VerdictUnreadable(f"it named a category by a {type(category).__name__} in place of text")
    return category


def _score(score: Any) -> float | None:
    if score is None:
        return None
    try:
        return float(score)
    except (TypeError, ValueError) as error:
        raise VerdictUnreadable(f"it gave a {type(score).__name__} as a score in place of a number") from error


def _entry_point(name: str) -> LookAt:
    found = entry_points(group=ENTRY_POINTS, name=name)
    if not found:
        raise ValueError(
            f"its pictures name the classifier {name}, and no installed package has an entry point of that name in the "
            f"group {ENTRY_POINTS}"
        )
    [point] = list(found)[:1]
    try:
        function = point.load()
    except Exception as error:  # importing runs the deployment's own code
        raise ValueError(f"its classifier {name} cannot be imported ({error!r})") from error
    if not callable(function):
        raise ValueError(f"its classifier {name} is no function")  # noqa: TRY004 - said of the file
    return cast("LookAt", function)


class Service:
    """A classifier over HTTP. Safe for several threads."""

    def __init__(self, url: str) -> None:
        """Connects to nothing yet."""
        self._url = url
        self._http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_S_MAX, read=READ_S_MAX), retries=False, maxsize=4
        )

    def __call__(self, picture: RenderedImage) -> Any:
        """Return what the service saw. Raises `ClassifierAway` and `VerdictUnreadable`."""
        try:
            answer = self._http.request(
                "POST",
                self._url,
                body=picture.content,
                headers={"Content-Type": picture.content_type, "Accept": "application/json"},
                preload_content=False,
            )
            try:
                content = answer.read(ANSWER_BYTES_MAX + 1)
            finally:
                answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClassifierAway(f"The classifier of pictures does not answer ({type(error).__name__}).") from error
        if answer.status in (408, 425, 429) or answer.status >= 500:
            raise ClassifierAway(f"The classifier of pictures answers with status {answer.status}.")
        if answer.status != 200:
            raise VerdictUnreadable(f"it answered with status {answer.status} in place of 200")
        if len(content) > ANSWER_BYTES_MAX:
            raise VerdictUnreadable(f"its answer has more than {ANSWER_BYTES_MAX} bytes")
        try:
            return json.loads(content)["categories"]
        except (ValueError, TypeError, KeyError) as error:
            raise VerdictUnreadable("its answer is not JSON with categories") from error
