"""Proves that finished pictures are looked at as the policy says: what is blocked is not stored, what fails is told."""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from darkroom.consumer.core.jobs import Verdict, VerdictKind
from darkroom.consumer.safety.classifiers import ENTRY_POINTS, load
from darkroom.consumer.safety.judging import Judging
from darkroom.consumer.worker.delivery import Delivery, JudgingAway
from darkroom.consumer.worker.progress import ProgressFeed
from darkroom.inference.types import JobPreview, Preview, RenderedImage
from darkroom.producer.policy.policy_file import PolicyFile
from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.schemas.errors import ErrorCode, SettingsError
from darkroom.schemas.events.completion import FLAGS_MAX, Completion, Flag, Status
from darkroom.schemas.prompts.picture_rules import PictureRules
from darkroom.schemas.settings import Settings
from darkroom.schemas.settings.policy import PolicySettings
from tests.constants import section_with
from tests.consumer.test_signed_outcomes import DEVICE, painted

RENDERED = Verdict(VerdictKind.RENDERED)
CODE = """
import threading

release = threading.Event()
answers, threads = [], []

def classify(picture):
    threads.append(threading.current_thread())
    assert picture.content[:4] == b"\\x89PNG" and picture.content_type == "image/png"
    answer = answers.pop(0) if answers else None
    if answer == "hang":
        release.wait(60)
    if isinstance(answer, Exception):
        raise answer
    return answer

NOT_A_FUNCTION = 7
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module with a classifier of the deployment's own."""
    name = f"picture_rules_{time.monotonic_ns()}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__(name)
    yield module
    module.release.set()
    del sys.modules[name]


class House:
    """A worker's delivery under a policy, and its store."""

    def __init__(self, file: Path, **settings: Any) -> None:
        self.file = file
        self.counted: list[tuple[str, str]] = []
        self.store = MemoryObjects()
        section = section_with(PolicySettings, file=file, reload_s=0, **settings)
        self.policy = PolicyFile(section, load_pictures=load)
        self.judging = Judging(self.policy, section, lambda *seen: self.counted.append(seen))
        self.delivery = Delivery(Settings(), self.store, lambda _: None, self.policy, judging=self.judging)
        self.delivery.loaded(DEVICE.info)

    async def settled(self, offset: int = 0) -> Completion:
        key, payload = painted(offset)
        await self.delivery.settle(key, payload, RENDERED)
        assert payload.completion is not None
        return payload.completion

    async def pictures(self) -> list[str]:
        return [key async for key in self.store.list_keys("") if not key.endswith(".json")]


@pytest.fixture
def house(tmp_path: Path, rules: Any) -> Callable[..., House]:
    def make(more: str = "", *, source: str | None = None, **settings: Any) -> House:
        file = tmp_path / "policy.toml"
        file.write_text(policy(source or f'classifier = "{rules.__name__}:classify"', more))
        return House(file, **settings)

    return make


def policy(source: str, more: str = "", version: str = "1") -> str:
    return f'version = "{version}"\n[pictures]\n{source}\n{more}\n'


def flags(*seen: tuple[int, str, float | None]) -> tuple[Flag, ...]:
    return tuple(Flag(image=image, category=category, score=score) for image, category, score in seen)


async def test_what_is_blocked_is_not_stored_and_the_completion_says_why(
    house: Callable[..., House], rules: Any
) -> None:
    made = house('block = ["violence"]')
    rules.answers[:] = [{"sexual": 0.25}, {"violence": 0.75, "sexual": 0.5}]
    completion = await made.settled()
    assert completion.status is Status.FAILED
    assert completion.error is not None
    assert completion.error.code is ErrorCode.IMAGE_REJECTED
    assert completion.error.retryable, "another seed may do"
    assert completion.error.message == "The picture is not allowed here: category violence, policy version 1."
    assert completion.flagged == flags((1, "violence", 0.75), (0, "sexual", 0.25), (1, "sexual", 0.5))
    assert completion.images == ()
    assert await made.pictures() == []
    assert completion.cost is not None, "the device painted it all the same"
    assert ("violence", "rejected") in made.counted


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([None, None], ()),
        ([[], ""], ()),
        (["sexual", ["sexual", "gore"]], ((0, "sexual", None), (1, "sexual", None), (1, "gore", None))),
        ([("gore",), {"gore": 1}], ((0, "gore", None), (1, "gore", 1.0))),
        ([{"No Name!": 2.5}, {"gore": float("nan")}], ((0, "other", 2.5), (1, "gore", None))),
    ],
    ids=repr,
)
async def test_what_is_only_flagged_is_stored(
    house: Callable[..., House], rules: Any, answers: list[Any], expected: tuple[Any, ...]
) -> None:
    made = house("block = []")
    rules.answers[:] = answers
    completion = await made.settled()
    assert completion.status is Status.SUCCEEDED
    assert completion.flagged == flags(*expected)
    assert len(await made.pictures()) == 2
    assert all(thread is not threading.main_thread() for thread in rules.threads), "off the event loop"


async def test_without_a_list_of_categories_each_one_blocks_and_without_rules_nobody_looks(
    house: Callable[..., House], rules: Any
) -> None:
    made = house()
    rules.answers[:] = [None, "anything"]
    assert (await made.settled()).error is not None
    made.file.write_text('version = "2"\n')
    completion = await made.settled(1)
    assert (completion.replayed, completion.status) == (True, Status.FAILED), "the outcome stands under a later policy"
    fresh = House(made.file)
    assert (await fresh.settled()).flagged is None
    assert len(rules.threads) == 2


async def test_a_changed_policy_takes_effect_and_one_whose_classifier_is_missing_does_not(
    house: Callable[..., House], rules: Any
) -> None:
    made = house()
    assert not made.judging.shows_previews(), "rough pictures of what may be rejected"
    made.file.write_text(policy('classifier = "no_such_module_here:classify"', version="2"))
    rules.answers[:] = ["gore", None]
    completion = await made.settled()
    assert completion.error is not None
    assert "policy version 1" in completion.error.message
    made.file.write_text(policy(f'classifier = "{rules.__name__}:classify"', 'block = ["sexual"]', "33"))
    made.store = MemoryObjects()
    fresh = Delivery(Settings(), made.store, lambda _: None, made.policy, judging=made.judging)
    fresh.loaded(DEVICE.info)
    rules.answers[:] = ["gore", None]
    key, payload = painted(0)
    await fresh.settle(key, payload, RENDERED)
    assert payload.completion is not None
    assert payload.completion.flagged == flags((0, "gore", None))


@pytest.mark.parametrize("answer", [LookupError("the prompt"), 7, [7], {"gore": "much"}, b"gore"], ids=repr)
@pytest.mark.parametrize("mode", ["required", "best_effort"])
async def test_a_classifier_that_fails_at_a_picture(
    house: Callable[..., House], rules: Any, mode: str, answer: Any
) -> None:
    made = house(f'mode = "{mode}"')
    rules.answers[:] = [answer]
    completion = await made.settled()
    assert completion.flagged is None
    if mode == "required":
        assert completion.error is not None
        assert completion.error.code is ErrorCode.IMAGE_REJECTED
        assert "classifier_failed" in completion.error.message
        assert await made.pictures() == []
    else:
        assert completion.status is Status.SUCCEEDED
        assert "nobody looked at the pictures: the classifier failed at picture 0" in completion.warnings
        assert len(await made.pictures()) == 2


@pytest.mark.parametrize("mode", ["required", "best_effort"])
async def test_a_classifier_that_hangs_holds_no_more_than_its_request(
    house: Callable[..., House], rules: Any, mode: str
) -> None:
    made = house(f'mode = "{mode}"', picture_timeout_s=0.2)
    rules.answers[:] = ["hang"]
    key, payload = painted(0)
    if mode == "required":
        with pytest.raises(JudgingAway, match=r"did not answer within 0\.2 s"):
            await made.delivery.settle(key, payload, RENDERED)
        assert await made.pictures() == []
        rules.release.set()  # it is well again, and the same pictures are shown to it
    await made.delivery.settle(key, payload, RENDERED)
    assert payload.completion is not None
    assert payload.completion.status is Status.SUCCEEDED
    assert (payload.completion.flagged is None) == (mode == "best_effort")
    assert any("did not answer" in one for one in payload.completion.warnings) == (mode == "best_effort")


async def test_a_store_that_fails_has_nobody_look_twice(house: Callable[..., House], rules: Any) -> None:
    class Failing(MemoryObjects):
        fails = True

        async def put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
            if self.fails:
                raise StoreUnavailable("away")
            return await super().put_if_absent(key, content, content_type)

    made, store = house("block = []"), Failing()
    delivery = Delivery(Settings(), store, lambda _: None, made.policy, judging=made.judging)
    delivery.loaded(DEVICE.info)
    rules.answers[:] = ["gore", "gore"]
    key, payload = painted(0)
    with pytest.raises(Exception, match="away"):
        await delivery.settle(key, payload, RENDERED)
    store.fails = False
    await delivery.settle(key, payload, RENDERED)
    assert payload.completion is not None
    assert payload.completion.flagged == flags((0, "gore", None), (1, "gore", None))
    assert len(rules.threads) == 2


async def test_more_categories_than_fit_leave_those_that_decided(house: Callable[..., House], rules: Any) -> None:
    made = house('block = ["last"]')
    rules.answers[:] = [[*(f"c{number}" for number in range(2 * FLAGS_MAX)), "last"]]
    completion = await made.settled()
    assert completion.flagged is not None
    assert (len(completion.flagged), completion.flagged[0].category) == (FLAGS_MAX, "last")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('classifier = "no_such_module_here:classify"', "cannot be imported"),
        ('classifier = "{module}:NOT_A_FUNCTION"', "is no function"),
        ('classifier = "not-installed"', "no installed package has an entry point"),
        ('safety_checker = "/nowhere"', "config.json is missing"),
    ],
)
def test_a_policy_whose_classifier_cannot_be_used_ends_the_start(
    house: Callable[..., House], rules: Any, source: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        house(source=source.format(module=rules.__name__))


async def test_an_installed_package_s_classifier_is_found_by_name(
    house: Callable[..., House], rules: Any, tmp_path: Path
) -> None:
    info = tmp_path / "their_rules-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-rules\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\ntheir-rules = {rules.__name__}:classify\n")
    importlib.invalidate_caches()
    rules.answers[:] = ["gore"]
    completion = await house(source='classifier = "their-rules"').settled()
    assert completion.flagged == flags((0, "gore", None))


@pytest.mark.parametrize("shown", [True, False])
async def test_a_preview_is_published_only_where_nobody_judges_pictures(shown: bool) -> None:
    value = b'{"request_id": "r-1", "prompt": "a dancer", "progress": "previews"}'
    found = painted(0, value)
    feed = ProgressFeed("progress", {}, "worker", lambda _: found, shows_previews=lambda: shown)
    feed.on_engine(JobPreview("job", Preview(b"rough", 1)))
    assert feed._queue.empty() is not shown


# --- A service over HTTP ---------------------------------------------------------------------------------


class Service:
    """A classifier that answers as a test says, and notes what it was sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, bytes]] = []
        self.answers: list[tuple[int, bytes]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                service.seen.append((self.headers["Content-Type"], self.rfile.read(length)))
                status, body = service.answers.pop(0) if service.answers else (200, b'{"categories": []}')
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/look"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.server.shutdown()
    made.server.server_close()


def verdict(categories: Any) -> tuple[int, bytes]:
    return 200, json.dumps({"categories": categories}).encode()


async def test_a_service_is_sent_each_picture_and_its_verdict_counts(
    house: Callable[..., House], service: Service
) -> None:
    made = house("block = []", source=f'url = "{service.url}"')
    service.answers[:] = [verdict(["gore"]), verdict({"sexual": 0.5})]
    completion = await made.settled()
    assert completion.flagged == flags((0, "gore", None), (1, "sexual", 0.5))
    images = painted(1)[1].images
    assert service.seen == [("image/png", image.content) for image in images]


@pytest.mark.parametrize("status", [500, 503, 429, None], ids=str)
async def test_a_service_that_is_away_is_waited_for(
    house: Callable[..., House], service: Service, status: int | None
) -> None:
    url = service.url
    if status is None:
        service.server.shutdown()
        service.server.server_close()
    else:
        service.answers[:] = [(status, b"")]
    made = house(source=f'url = "{url}"')
    key, payload = painted(0)
    with pytest.raises(JudgingAway, match="classifier of pictures"):
        await made.delivery.settle(key, payload, RENDERED)
    assert await made.pictures() == []
    if status is not None:
        await made.delivery.settle(key, payload, RENDERED)
        assert payload.completion is not None
        assert payload.completion.flagged == ()


@pytest.mark.parametrize(
    "answer",
    [(404, b""), (302, b""), (200, b"<html>"), (200, b"[]"), (200, b"{}"), verdict(7), (200, b"[" * 100_000)],
    ids=lambda answer: f"{answer[0]} {answer[1][:12]!r}",
)
async def test_a_service_whose_answer_is_no_verdict_lets_no_picture_pass(
    house: Callable[..., House], service: Service, answer: tuple[int, bytes]
) -> None:
    made = house(source=f'url = "{service.url}"')
    service.answers[:] = [answer]
    completion = await made.settled()
    assert completion.error is not None
    assert completion.error.code is ErrorCode.IMAGE_REJECTED
    assert await made.pictures() == []


def test_the_same_source_is_loaded_once(service: Service) -> None:
    first = load(PictureRules(url=service.url))
    assert load(PictureRules(url=service.url, block=frozenset({"gore"}))) is first
    assert first(RenderedImage(b"picture", 1, 1, 0, "image/png", "png")) == []
