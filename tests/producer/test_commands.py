"""Proves `send`, `watch` and `cancel` as people and scripts use them: output, exit codes, one sentence on errors."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from darkroom.producer.cli.request_options import adapters_of, controls_of, field_options
from darkroom.producer.cli.send import cancel, send
from darkroom.producer.cli.watch import watch
from darkroom.producer.kafka.reader import TopicReader
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.outcomes import completions
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.pose import CanvasSize, PeoplePose
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings
from darkroom.schemas.wire.codec import decode_cancellation, decode_request
from tests.producer.answering import Answerer, answered_of, answering, rendered
from tests.producer.examples import NOON, Picture, success

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A whole PNG."""


@pytest.fixture
def environment(stack: Stack, settings: Settings) -> dict[str, str]:
    """The variables of a deployment of its own."""
    return {
        **stack.environment,
        "DARKROOM_TOPICS__PREFIX": settings.topics.prefix,
        "DARKROOM_TOPICS__REQUESTS_PARTITIONS": "3",
        "DARKROOM_TOPICS__COMPLETIONS_PARTITIONS": "2",
        "DARKROOM_S3__BUCKET": settings.s3.bucket,
    }


def invoke(command: Any, environment: Mapping[str, str], *arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(command, list(arguments), env=dict(environment), input=stdin)


def sent(settings: Settings) -> list[GenerationRequest]:
    """The requests that are on the topic."""

    async def read() -> list[GenerationRequest]:
        return [decode_request(one.value, one.headers, one.key).request for one in await _records(settings)]

    return asyncio.run(read())


async def _records(settings: Settings, topic: str | None = None) -> list[Any]:
    async with TopicReader(settings.kafka, (topic or settings.topics.requests,)) as reader:
        ends = await reader.stable_ends()
        reader.start_at(dict.fromkeys(ends, 0))
        records: list[Any] = []
        while len(records) < sum(ends.values()):
            records += await reader.read(5)
        return records


@contextlib.contextmanager
def worker(settings: Settings, make: Callable[[Any], Completion | None] = rendered) -> Iterator[None]:
    """Answers requests on an event loop in a thread of its own, as another process does."""
    ready, stop = threading.Event(), threading.Event()

    async def work() -> None:
        await ensure_topics(settings)
        async with answering(settings, make):
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    try:
        assert ready.wait(30)
        yield
    finally:
        stop.set()
        thread.join(30)


pytestmark = pytest.mark.stack


def test_a_request_of_options_is_sent_and_its_id_printed(
    environment: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    pose = tmp_path / "pose.json"
    pose.write_text(json.dumps({"people": [[[0.5, 0.5]] * 18]}))
    result = invoke(
        send, environment, "--prompt", "a dancer", "--negative-prompt", "blurry", "--pose", str(pose),
        "--preset", "quality", "--steps", "7", "--width", "64", "--height", "128", "--guidance-scale", "3.5",
        "--seed", "11", "--count", "2", "--priority", "9", "--format", "webp", "--quality", "80",
        "--control-scale", "0.5", "--label", "campaign=spring", "--tenant", "studio", "--request-id", "hello-1",
        "--sampler", "euler", "--deadline", "2099-01-31T12:00:00Z", "--adapter", "ink=-0.5",
    )  # fmt: skip
    assert (result.exit_code, result.stdout) == (0, "hello-1\n")
    (request,) = sent(settings)
    asked = request.model_dump(exclude_unset=True, mode="json")
    assert asked == {
        "request_id": "hello-1",
        "tenant": "studio",
        "prompt": "a dancer",
        "negative_prompt": "blurry",
        "preset": "quality",
        "steps": 7,
        "width": 64,
        "height": 128,
        "guidance_scale": 3.5,
        "sampler": "euler",
        "seed": 11,
        "count": 2,
        "priority": 9,
        "deadline": "2099-01-31T12:00:00Z",
        "output": {"format": "webp", "quality": 80},
        "control_scale": 0.5,
        "labels": {"campaign": "spring"},
        "adapter": {"name": "ink", "weight": -0.5},
        "pose": {"people": [[[0.5, 0.5]] * 18]},
    }


def test_poses_are_sent_as_people_have_them(environment: dict[str, str], settings: Settings, tmp_path: Path) -> None:
    keypoints, photo = tmp_path / "openpose.json", tmp_path / "photo.png"
    keypoints.write_text(json.dumps({"people": [{"pose_keypoints_2d": [320, 90, 0.9] * 18}]}))
    photo.write_bytes(PIXEL)
    refused = invoke(send, environment, "--prompt", "a dancer", "--pose", str(keypoints))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--pose-size WIDTHxHEIGHT" in refused.stderr
    for options in (["--pose", str(keypoints), "--pose-size", "640x360"], ["--photo", str(photo)]):
        assert invoke(send, environment, "--prompt", "a dancer", *options).exit_code == 0
    poses = [request.pose.model_dump(mode="json", exclude_unset=True) for request in sent(settings) if request.pose]
    assert {"people": [[[0.5, 0.25]] * 18], "format": "coco18"} in poses
    assert {"photo": {"inline": base64.b64encode(PIXEL).decode()}} in poses


def test_a_picture_to_start_from_is_sent(environment: dict[str, str], settings: Settings, tmp_path: Path) -> None:
    picture = tmp_path / "start.png"
    picture.write_bytes(PIXEL)
    options = ["--prompt", "a dancer", "--init", str(picture), "--strength", "0.4", "--init-fit", "contain"]
    assert invoke(send, environment, *options).exit_code == 0
    [request] = sent(settings)
    assert request.init is not None
    assert request.init.model_dump() == {
        "image": {"inline": base64.b64encode(PIXEL).decode()}, "strength": 0.4, "fit": "contain",
    }  # fmt: skip
    masked = invoke(send, environment, *options, "--mask", str(picture), "--mask-blur", "4")
    assert masked.exit_code == 0
    [mask] = [request.mask for request in sent(settings) if request.mask is not None]
    assert (mask.blur, mask.composite) == (4, True)
    refused = invoke(send, environment, *options[:4], "--strength", "1")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "init.strength" in refused.stderr


def test_each_frame_becomes_a_request(environment: dict[str, str], settings: Settings, tmp_path: Path) -> None:
    film = tmp_path / "film.json"
    canvas = {"canvas_width": 640, "canvas_height": 360}
    shown = [{"people": [{"pose_keypoints_2d": [x, 90, 0.9] * 18}], **canvas} for x in (160, 320)]
    film.write_text(json.dumps([shown[0], {"people": [], **canvas}, shown[1]]))
    options = ["--prompt", "a dancer", "--pose", str(film), "--request-id", "film"]
    result = invoke(send, environment, *options, "--frames", "--fit", "contain")
    assert (result.exit_code, result.stdout.split()) == (0, ["film-1", "film-3"])
    assert "frame 2: not sent: it shows nobody" in result.stderr
    for request in sent(settings):
        assert isinstance(request.pose, PeoplePose)
        assert (request.pose.fit, request.pose.canvas) == ("contain", CanvasSize(width=640, height=360))
        assert request.pose.people[0][0] == ({"film-1": 0.25, "film-3": 0.5}[request.request_id], 0.25)
    first = invoke(send, environment, *options[:4])
    assert "the file has 3 frames: the first one was used; `darkroom send --frames` sends all of them" in first.stderr


def test_repeated_requests_have_ids_of_their_own(environment: dict[str, str], settings: Settings) -> None:
    unnamed = invoke(send, environment, "--prompt", "a dancer", "--repeat", "3")
    assert unnamed.exit_code == 0
    named = invoke(send, environment, "--prompt", "a dancer", "--repeat", "2", "--request-id", "hello", "--json")
    assert [json.loads(line) for line in named.stdout.splitlines()] == [
        {"request_id": "hello-1", "tenant": "default"},
        {"request_id": "hello-2", "tenant": "default"},
    ]
    ids = [*unnamed.stdout.split(), "hello-1", "hello-2"]
    assert len(set(ids)) == 5
    assert sorted(request.request_id for request in sent(settings)) == sorted(ids)


def test_a_file_is_sent_line_by_line(environment: dict[str, str], settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text('{"request_id":"a","prompt":"one","colour":"red"}\n\n{"prompt":"two"}\n')
    result = invoke(send, environment, str(file))
    assert result.exit_code == 0
    first, second = result.stdout.split()
    assert first == "a"
    assert f"{file}:1: unknown field ignored: colour" in result.stderr
    assert sorted(request.request_id for request in sent(settings)) == sorted([first, second])


def test_standard_input_is_a_file_too(environment: dict[str, str], settings: Settings) -> None:
    result = invoke(
        send, environment, "-", stdin=b'{"request_id":"a","prompt":"one"}\n{"request_id":"b","prompt":"two"}'
    )
    assert (result.exit_code, result.stdout) == (0, "a\nb\n")
    assert len(sent(settings)) == 2


def test_one_bad_line_keeps_all_from_being_sent_unless_such_are_skipped(
    environment: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text('{"request_id":"a","prompt":"one"}\n{"request_id":"b","prompt":"two","steps":1000}\n')
    refused = invoke(send, environment, str(file))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"{file}:2: steps" in refused.stderr
    assert "Invalid lines: 1 of 2, so nothing was sent" in refused.stderr
    skipped = invoke(send, environment, "--skip-invalid", str(file))
    assert (skipped.exit_code, skipped.stdout) == (0, "a\n")
    assert f"{file}:2: steps" in skipped.stderr
    assert [request.request_id for request in sent(settings)] == ["a"]


def test_send_says_how_to_make_lines_of_one_json_text(tmp_path: Path, environment: dict[str, str]) -> None:
    file = tmp_path / "pretty.json"
    for value in ({"prompt": "a dancer"}, [{"prompt": "a dancer"}, {"prompt": "a tree"}]):
        file.write_text(json.dumps(value, indent=2))
        refused = invoke(send, environment, "--skip-invalid", str(file))
        assert refused.exit_code == 1
        assert f"Convert it with `jq -c . {file}`" in " ".join(refused.stderr.split())
    file.write_text(json.dumps({"prompt": "a dancer", "steps": 1000}))
    assert "Invalid lines: 1 of 1" in invoke(send, environment, str(file)).stderr


def test_a_file_without_a_request_is_an_error(environment: dict[str, str]) -> None:
    result = invoke(send, environment, "-", stdin=b"\n \n")
    assert result.exit_code == 1
    assert "<stdin> has no request" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--prompt or a FILE"),
        (["--prompt", "x", "-"], "--prompt or a FILE"),
        (["-", "--steps", "5"], "no options but --wait"),
        (["--prompt", "x", "--steps", "1000"], "steps"),
        (["--prompt", "x", "--steps", "many"], "--steps"),
        (["--prompt", "x", "--label", "novalue"], "NAME=VALUE"),
        (["--prompt", "x", "--request-id", "no/slash"], "request_id"),
        (["--prompt", "x", "--pose", "/absent.png"], "/absent.png"),
        (["--prompt", "x", "--photo", "/absent.jpg"], "/absent.jpg"),
        (["--prompt", "x", "--init", __file__], "is no PNG, JPEG or WebP picture"),
        (["--prompt", "x", "--strength", "0.5"], "--strength belongs to the picture of --init"),
        (["--prompt", "x", "--init-fit", "cover"], "--init-fit belongs to the picture of --init"),
        (["--prompt", "x", "--mask-blur", "3"], "--mask-blur belongs to the picture of --mask"),
        (["--prompt", "x", "--photo", __file__], "is no PNG, JPEG or WebP picture"),
        (["--prompt", "x", "--photo", __file__, "--pose", __file__], "either --photo or --pose"),
        (["--prompt", "x", "--pose-size", "64x64"], "--pose-size belongs to the keypoints"),
        (["--prompt", "x", "--pose", __file__, "--pose-size", "64"], "--pose-size 64: write width x height"),
        (["--prompt", "x", "--frames"], "--frames belongs to the keypoints"),
        (["--prompt", "x", "--fit", "cover"], "--fit belongs to the keypoints"),
        (["--prompt", "x", "--pose", __file__, "--frames", "--repeat", "2"], "give one"),
        (["--prompt", "x", "--pose", __file__, "--frames"], "neither JSON with keypoints"),
        (["-", "--photo", __file__], "no options but --wait"),
        (["--prompt", "x", "--repeat", "0"], "--repeat"),
    ],
)
def test_wrong_usage_is_told_apart(arguments: list[str], said: str) -> None:
    result = invoke(send, {}, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_waiting_prints_the_completions_alone(environment: dict[str, str], settings: Settings) -> None:
    with worker(settings):
        result = invoke(send, environment, "--prompt", "a dancer", "--repeat", "3", "--wait", "--timeout", "30")
    assert result.exit_code == 0, result.stderr
    found = [Completion.model_validate_json(line) for line in result.stdout.splitlines()]
    assert len({completion.request_id for completion in found}) == 3


def test_waiting_fails_where_a_request_does(environment: dict[str, str], settings: Settings) -> None:
    def fail(record: Any) -> Completion:
        return completions.failed(answered_of(record), "render_failed", "it was all black", completed_at=NOON)

    with worker(settings, fail):
        result = invoke(send, environment, "--prompt", "a dancer", "--wait", "--timeout", "30")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["code"] == "render_failed"
    assert "1 of 1 requests did not succeed" in result.stderr


def test_waiting_ends_in_time(environment: dict[str, str]) -> None:
    result = invoke(send, environment, "--prompt", "a dancer", "--request-id", "a", "--wait", "--timeout", "1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "1 of 1 requests, such as default/a, have no completion after 1 s" in result.stderr


def test_a_cancellation_is_published(environment: dict[str, str], settings: Settings) -> None:
    result = invoke(cancel, environment, "hello-1", "--tenant", "studio", "--reason", "why not")
    assert (result.exit_code, result.stdout) == (0, "The cancellation of studio/hello-1 is published.\n")
    as_json = invoke(cancel, environment, "hello-2", "--json")
    assert json.loads(as_json.stdout) == {"request_id": "hello-2", "tenant": "default", "reason": None}
    records = asyncio.run(_records(settings, settings.topics.cancellations))
    found = {decode_cancellation(one.value, one.headers).request_id for one in records}
    assert found == {"hello-1", "hello-2"}
    assert invoke(cancel, environment, "no/id").exit_code == 2
    assert invoke(cancel, environment, "a", "--reason", "x" * 501).exit_code == 2


def test_watching_tells_each_completion_and_saves_the_pictures(
    environment: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    pictures = (Picture(b"one"), Picture(b"two", content_type="image/webp", extension="webp"))
    good = success(*pictures, bucket=settings.s3.bucket, request_id="good")
    gone = success(bucket=settings.s3.bucket, request_id="gone")
    asyncio.run(_publish(settings, good, pictures, gone))
    result = invoke(watch, environment, "--from-beginning", "--limit", "2", "--save", str(tmp_path), "--json")
    assert result.exit_code == 0, result.stderr
    assert {json.loads(line)["request_id"] for line in result.stdout.splitlines()} == {"good", "gone"}
    folder = tmp_path / "studio" / "good"
    assert {path.read_bytes() for path in folder.iterdir()} == {b"one", b"two"}
    assert {path.suffix for path in folder.iterdir()} == {".png", ".webp"}
    assert "is not in the store" in result.stderr
    assert not (tmp_path / "studio" / "gone").exists()
    in_words = invoke(watch, environment, "--from-beginning", "--limit", "2")
    assert "succeeded  studio/good  2 images  3600.0 s" in in_words.stdout


async def _publish(settings: Settings, good: Completion, pictures: tuple[Picture, ...], gone: Completion) -> None:
    await ensure_topics(settings)
    async with MinioObjects(settings.s3) as objects, Answerer(settings) as answerer:
        await objects.ensure_bucket(1)
        for ref, picture in zip(good.images, pictures, strict=True):
            await objects.put(ref.key, picture.content, ref.content_type)
        await answerer.publish([good, gone])


def test_watching_ends_well_when_interrupted(environment: dict[str, str]) -> None:
    with _process(environment, "watch") as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGINT) if _reads(process) else pytest.fail("it ended")
        assert process.wait(20) == 0
        assert b"Traceback" not in process.stderr.read()


def test_a_kafka_that_is_not_there_is_one_sentence() -> None:
    away = {"DARKROOM_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "DARKROOM_S3__ENDPOINT": "http://127.0.0.1:1"}
    for command, arguments in ((send, ["--prompt", "x"]), (watch, ["--save", "nowhere"]), (cancel, ["a"])):
        result = invoke(command, away, *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: Kafka at 127.0.0.1:1 did not do its part")
    with _process(away, "cancel", "a") as process:  # a process of its own also shows what libraries would log
        _, err = process.communicate(timeout=60)
    assert len(err.decode().splitlines()) == 1


def test_the_stack_of_the_folder_is_used_and_that_is_said(stack: Stack, settings: Settings) -> None:
    found = {"DARKROOM_STACK_DIR": str(stack.directory), "DARKROOM_TOPICS__PREFIX": settings.topics.prefix}
    with _process(found, "cancel", "a", "--json") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["request_id"] == "a"
    (line,) = err.decode().splitlines()
    assert line.startswith(f"Using the stack of {stack.directory / 'stack.json'}: Kafka at 127.0.0.1:")


def test_a_setting_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    config = tmp_path / "darkroom.toml"
    config.write_text("[kafka]\nbootstrap_server = 'x'\n")
    result = invoke(watch, {}, "--config", str(config))
    assert result.exit_code == 1
    assert "DARKROOM_KAFKA__BOOTSTRAP_SERVER" in result.stderr


@contextlib.contextmanager
def _process(environment: Mapping[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    # Whoever runs the tests in the background has them inherit an ignored SIGINT, as a terminal's job would not.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from darkroom import main; main(prog_name='darkroom')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**inherited, **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _reads(process: subprocess.Popen[bytes]) -> bool:
    """Wait until the command has a connection to Kafka: then it is where an interruption usually meets it."""
    import psutil

    watched = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            if any(one.status == psutil.CONN_ESTABLISHED for one in watched.net_connections("tcp")):
                return True
        time.sleep(0.05)
    return False


def test_controls_are_named_with_their_pictures(tmp_path: Path) -> None:
    file = tmp_path / "edges, two.png"
    Image.new("RGB", (8, 8)).save(file)
    image = {"inline": base64.b64encode(file.read_bytes()).decode()}
    assert controls_of([]) == {}
    # A file's name may have commas itself.
    named = [f"canny={file},scale=0.8,end=0.5", f"depth={file},start=0.25"]
    assert controls_of(named) == {
        "controls": [
            {"kind": "canny", "image": image, "scale": 0.8, "end": 0.5},
            {"kind": "depth", "image": image, "start": 0.25},
        ]
    }


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("edges.png", "write KIND=FILE, as in canny="),
        ("cany=edges.png", "kinds are openpose, canny"),
        ("canny=", "write KIND=FILE"),
        ("canny=missing.png,scale=0.5", "missing.png cannot be read"),
        ("canny=edges.png,scale=much", "scale must be a number"),
    ],
)
def test_a_control_that_cannot_be_sent_is_explained(option: str, said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        controls_of([option])


def test_adapters_are_named_with_their_weights() -> None:
    ink, both = {"name": "ink", "weight": 0.8}, {"name": "a=b", "weight": -1.0, "text_weight": 0.5}
    assert adapters_of([]) == {}
    assert adapters_of(["ink"]) == {"adapter": {"name": "ink"}}
    assert adapters_of(["ink=0.8"]) == {"adapter": ink}
    assert adapters_of(["ink=0.8", "a=b=-1:0.5"]) == {"adapters": [ink, both]}
    for wrong in ("ink=", "ink=strong", "ink=1:", "ink=1:2:3"):
        with pytest.raises(click.UsageError, match="must be a number"):
            adapters_of([wrong])


def test_send_has_an_option_for_every_field_of_a_request() -> None:
    by_hand = {
        "request_id": "--request-id", "pose": "--pose", "adapter": "--adapter", "adapters": "--adapter",
        "output": "--format", "labels": "--label", "progress": "--wait",
        "init": "--init", "mask": "--mask", "controls": "--control",
    }  # fmt: skip
    """Fields that are objects, are made where they are left out, or follow from how the command is called."""
    options = {name for option in send.get_params(click.Context(send)) for name in option.opts}
    derived = field_options()
    assert derived.keys() | by_hand.keys() == GenerationRequest.model_fields.keys()
    assert not derived.keys() & by_hand.keys()
    assert options >= {*by_hand.values(), *(f"--{name.replace('_', '-')}" for name in derived)}
    kinds = {"steps": "integer", "prompt": "text", "sampler": "text", "schedule": "choice", "control_end": "float"}
    assert {name: derived[name].type.name for name in kinds} == kinds
