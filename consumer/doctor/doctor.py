"""Checks what a worker needs before it is started: one line a check, and the remedy where one fails."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import psutil
import urllib3

from darkroom.consumer.doctor import live
from darkroom.consumer.doctor.finding import Finding
from darkroom.consumer.provenance.signing import Signing
from darkroom.consumer.worker.machine import machine
from darkroom.inference.contract import RunPlan
from darkroom.inference.planning.capability import OLDER_BUILD, driver_needed
from darkroom.inference.planning.memory_plan import MEMORY_BYTES_MIN as DEVICE_BYTES_MIN
from darkroom.inference.planning.memory_plan import MEMORY_BYTES_RECOMMENDED
from darkroom.inference.types import ModelInfo, Prediction
from darkroom.producer.callbacks.receivers import read_receivers
from darkroom.producer.kafka.connection import KafkaUnavailable, administering
from darkroom.producer.kafka.denials import named, user_of
from darkroom.producer.kafka.rights_check import missing_rights
from darkroom.producer.kafka.tls import STORE, client_context
from darkroom.producer.kafka.topic_checks import compare_topics
from darkroom.producer.kafka.topics import TopicRefused, would_be_made
from darkroom.producer.recipes_file import read_recipes
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.errors import SettingsError
from darkroom.schemas.names import Topic
from darkroom.schemas.rights import Role
from darkroom.schemas.settings import S3Settings, Settings
from darkroom.schemas.settings.model_source import StorePrefix

CERTIFICATE_DAYS_MIN = 30
"""So long before a certificate expires its end is told of: about as long as having one issued takes."""
CLOCK_S_MAX = 30.0
"""Signatures of requests to S3 are refused from a quarter of an hour on; deadlines are wrong long before that."""
MEMORY_BYTES_MIN = 2 * 1024**3
"""What a worker with the tiny model takes; a real model says its own size."""
DISK_FREE_BYTES_MIN = 1024**3
"""Profiles, compiled code, the tiny model; a model from the store says its own size."""


Check = Callable[[Settings], Awaitable[Finding | tuple[Finding, ...]]]
"""One check of some settings."""


async def examine(settings: Settings, role: Role = Role.WORKER) -> AsyncIterator[Finding]:
    """Run every check of what `role` uses, whatever the others found, and yield each finding as it is made."""

    async def rights(settings: Settings) -> Finding:
        return await _rights(settings, role)

    checks: list[tuple[str, Check]] = [
        ("machine", _machine),
        ("device", _device),
        ("model", _model),
        ("photos", photos),
        ("provenance", provenance),
        ("recipes", _recipes),
        ("callbacks", _callbacks),
        ("kafka", _kafka),
        ("rights", rights),
        ("topics", _topics),
        ("group", live.group),
        ("worker", live.worker),
        ("bucket", bucket),
        ("clocks", _clocks),
    ]
    is_kafka_away = False
    for name, check in checks:
        is_skipped = (
            (name in _OF_WORKERS and role is not Role.WORKER)
            or (name in _STORING and role in _WITHOUT_STORE)
            or (name == "group" and role not in _IN_GROUP)
        )
        if is_skipped:
            continue
        if name in _ON_KAFKA and is_kafka_away:
            yield Finding(name, False, "Kafka was not reached", "See the check of Kafka.")
            continue
        for one in await _checked(name, check, settings):
            is_kafka_away |= one.check == "kafka" and not one.passed
            yield one


async def _checked(name: str, check: Check, settings: Settings) -> tuple[Finding, ...]:
    try:
        found = await check(settings)
        return found if isinstance(found, tuple) else (found,)
    except SettingsError as error:
        return (Finding(name, False, str(error), "Correct that setting."),)
    except ModuleNotFoundError as error:
        extra = "photos" if name == "photos" else "render"
        says = f"the package {(error.name or str(error)).partition('.')[0]} is not installed"
        return (Finding(name, False, says, f"Install darkroom[{extra}]: pip install 'darkroom[{extra}]'."),)
    except Exception as error:
        says = f"the check itself failed: {type(error).__name__}: {error}"
        return (Finding(name, False, says, "Report this with the output of `darkroom doctor --json`."),)


_OF_WORKERS = frozenset({"machine", "device", "model", "photos", "provenance", "worker"})
_IN_GROUP = frozenset({Role.WORKER, Role.GATEWAY, Role.AUDIT, Role.INIT, Role.INIT_GROW})
_ON_KAFKA = frozenset({"rights", "topics", "group"})
_STORING = frozenset({"bucket", "clocks"})
_WITHOUT_STORE = frozenset({Role.CANCEL, Role.WATCH, Role.DOCTOR})


async def _machine(settings: Settings) -> Finding:
    here = machine(settings.model)
    says = (
        f"Python {platform.python_version()}, {here.cores:g} cores, {here.memory_bytes / 1024**3:.0f} GiB of memory, "
        f"{here.disk_free_bytes / 1024**3:.0f} of {here.disk_bytes / 1024**3:.0f} GiB of disk for models free"
    )
    if psutil.virtual_memory().available < MEMORY_BYTES_MIN:
        return Finding("machine", False, says, "Less than 2 GiB of memory is free: stop something else first.")
    if here.disk_free_bytes < DISK_FREE_BYTES_MIN:
        remedy = (
            "Less than 1 GiB of disk is free: free some, or let DARKROOM_MODEL__CACHE_PATH name another disk's folder."
        )
        return Finding("machine", False, says, remedy)
    # The tiny model is content with any machine.
    return Finding("machine", True, says, None if settings.model.path is None else here.advice())


async def _device(settings: Settings) -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("device", False, f"torch cannot be imported ({error})", "Install darkroom[render].")
    cuda = torch.cuda.is_available()
    asked = settings.device
    if not cuda and asked != "cpu" and (old := _old_driver(torch.version.cuda)) is not None:
        return Finding("device", False, *old)
    if asked.startswith("cuda") and not cuda:
        return Finding(
            "device",
            False,
            f"{asked} is asked for, and torch finds no CUDA device",
            "Check the driver, or --device cpu.",
        )
    if cuda and asked != "cpu":
        from darkroom.inference.sdxl.loading.placement import require_served
        from darkroom.inference.types import ModelError

        index = int(asked.partition(":")[2] or 0)
        try:
            require_served(torch.device("cuda", index))
        except ModelError as error:
            says, _, remedy = str(error).partition(": ")
            return Finding("device", False, says, remedy[:1].upper() + remedy[1:])
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        says = f"cuda:{index} {name}, {free / 1024**3:.1f} of {total / 1024**3:.1f} GiB free"
        details = {"name": name, "memory_bytes": total}
        return Finding("device", True, says, memory_advice(total, settings), details=details)
    return Finding("device", True, "cpu: fit for the tiny model and for trying things out; SDXL wants a GPU")


def _old_driver(cuda_version: str | None) -> tuple[str, str] | None:
    """Return a fault and its remedy where a GPU's driver is too old for torch's CUDA, which torch calls no device."""
    needed = driver_needed(cuda_version)
    if needed is None:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            driver = str(pynvml.nvmlSystemGetDriverVersion())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None  # no NVIDIA GPU here, or no driver at all
    if int(driver.partition(".")[0]) >= needed:
        return None
    return (
        f"the NVIDIA driver {driver} is older than torch's CUDA {cuda_version} needs",
        f"Install driver {needed} or newer on the node, or build the image with {OLDER_BUILD} (not tried here).",
    )


def memory_advice(memory_bytes: int, settings: Settings) -> str | None:
    """A warning, where the device is smaller than SDXL wants; the tiny model wants nothing."""
    if settings.model.path is None or memory_bytes >= MEMORY_BYTES_RECOMMENDED:
        return None
    if memory_bytes < DEVICE_BYTES_MIN:
        return "SDXL with a ControlNet wants 12 GB at the least and 16 GB or more to run well: use a larger card."
    return "SDXL with a ControlNet runs well from 16 GB on: below, weights move to and fro between the lanes' turns."


async def _model(settings: Settings) -> tuple[Finding, ...]:
    """Loads it, as a worker would: whatever is wrong with it shows here. Then how it is run, and why."""
    from darkroom.consumer.worker.engines import make_engine
    from darkroom.inference.types import ModelError

    # The pose detector has a check of its own.
    model = settings.model.model_copy(update={"pose_detector_path": None})
    try:
        engine = make_engine(settings.model_copy(update={"model": model}))
        await asyncio.to_thread(engine.start, lambda _event: None)
    except ModelError as error:
        remedy = "The DARKROOM_MODEL__* settings say what is loaded: a diffusers folder or checkpoint of SDXL."
        return (Finding("model", False, str(error), remedy),)
    info, plan = engine.info, engine.plan
    await asyncio.to_thread(engine.close)
    details = {
        "path": info.path,
        "controlnet_path": info.controlnet_path,
        "revision": info.revision,
        "adapters": dict(info.adapters),
        "embeddings": dict(info.embeddings),
        "controls": {kind: info.controls.get(kind, info.revision) for kind in info.control_kinds},
        "prediction": None if info.prediction is None else info.prediction._asdict(),
    }
    size = f"{info.native_width} x {info.native_height}"
    says = f"{info.name} on {info.device} in {info.dtype}, {size}, {_counted(info)}, {info.revision}"
    follows = f"Follows {', '.join(info.control_kinds) or 'no'} pictures as controls."
    notes = (*(() if info.prediction is None else (_predicts(info.prediction),)), follows)
    return (Finding("model", True, says, notes=notes, details=details), *_adapters(info), *_plan(plan))


def _counted(info: ModelInfo) -> str:
    embeddings = f", {len(info.embeddings)} textual inversions" if info.embeddings else ""
    return f"{len(info.adapters)} adapters{embeddings}"


def _predicts(prediction: Prediction) -> str:
    what = "v" if prediction.kind == "v_prediction" else prediction.kind
    snr = " with zero terminal SNR" if prediction.zero_terminal_snr else ""
    return f"It predicts {what}{snr}, timestep spacing {prediction.timestep_spacing}: {prediction.source} says so."


def _adapters(info: ModelInfo) -> tuple[Finding, ...]:
    """Return what is wrong with adapter files; nothing where all of them can be used."""
    if not info.adapters_refused:
        return ()
    names = ", ".join(info.adapters_refused)
    refused, usable = len(info.adapters_refused), len(info.adapters) + len(info.embeddings)
    says = f"{refused} of {refused + usable} are refused: {names}"
    remedy = "Put the files right or take them out: workers run without them, and requests for them fail."
    return (
        Finding(
            "adapters",
            False,
            says,
            remedy,
            notes=tuple(info.adapters_refused.values()),
            details={"refused": dict(info.adapters_refused)},
        ),
    )


def _plan(plan: RunPlan | None) -> tuple[Finding, ...]:
    """What the memory plan decided; nothing for a device that has none."""
    if plan is None:
        return ()
    details = plan.as_json()
    probe = details["probe"]
    timings = {name: probe[name] for name in ("sdpa_ms", "xformers_ms")}
    return (
        Finding("plan", True, plan.summary(), notes=plan.reasons, details={"plan": details}),
        Finding(
            "attention",
            True,
            plan.why_attention,
            notes=tuple(probe["says"]),
            details={"backend": details["attention"], **timings},
        ),
    )


async def photos(settings: Settings) -> Finding:
    """Say which detector finds the people in photos. That photos are refused is no failure: not all deployments want
    them."""
    from darkroom.inference.types import ModelError

    source = settings.model.pose_detector_path
    if settings.simulated.is_asked_for:
        return Finding("photos", True, "the simulated device takes photos and looks for nobody in them")
    if not settings.model.follows_poses:
        return Finding("photos", True, "refused, as every pose: the model is loaded without a ControlNet")
    if source is None:
        return await asyncio.to_thread(_blazepose)
    try:
        digest = await asyncio.to_thread(_detector_digest, settings, source)
    except ImportError as error:
        return Finding("photos", False, f"torch cannot be imported ({error})", "Install darkroom[render,pose].")
    except ModelError as error:
        remedy = "Correct DARKROOM_MODEL__POSE_DETECTOR_PATH, or unset it: a worker does not start so."
        return Finding("photos", False, str(error), remedy)
    says = f"OpenPose body detector from {source}, {digest}; its licence allows non-commercial use only"
    return Finding("photos", True, says, details={"digest": digest})


def _blazepose() -> Finding:
    """Load what finds people where no weights are named, as a worker would."""
    from darkroom.inference.pose.blazepose.detector import BlazePoseDetector, is_installed
    from darkroom.inference.pose.photo import NO_DETECTOR
    from darkroom.inference.types import ModelError

    if not is_installed():
        return Finding("photos", True, f"refused: {NO_DETECTOR}")
    try:
        digest = BlazePoseDetector().digest
    except ModelError as error:
        return Finding("photos", False, str(error), "Install Darkroom again: a worker does not start so.")
    says = f"BlazePose, carried by the package (Apache-2.0), on the CPU, {digest}"
    return Finding("photos", True, says, details={"digest": digest})


def _detector_digest(settings: Settings, source: Path | StorePrefix) -> str:
    """Load the pose detector as a worker would, on the CPU. Raises `ModelError`."""
    import torch

    from darkroom.consumer.weights import ModelStore
    from darkroom.inference.pose.openpose import load_detector

    store = ModelStore(settings.s3, settings.model)
    try:
        path = store.fetch(source) if isinstance(source, StorePrefix) else source
        return load_detector(path, torch.device("cpu")).digest
    finally:
        store.close()


async def provenance(settings: Settings) -> Finding:
    """Read the certificate as a worker would, and sign a small picture with it, dated where that is asked for."""
    asked = settings.provenance
    told = "" if asked.parameters else ", not how it was made"
    if asked.cert_file is None:
        says = f"each picture says that a model made it{told} (IPTC source type), and nobody signs that"
        advice = "Set DARKROOM_PROVENANCE__CERT_FILE and __KEY_FILE to sign it (C2PA): marks alone can be taken off."
        return Finding("provenance", True, says, advice)
    try:
        signing = await asyncio.to_thread(Signing, asked.model_copy(update={"mode": "required"}))
    except SettingsError as error:
        outcome = "A worker does not start so." if asked.mode == "required" else "Pictures are stored unsigned."
        return Finding("provenance", False, str(error), outcome)
    proved = await signing.prove()
    days = (proved.not_after - datetime.now(UTC)).days
    dated = {True: ", dated by the timestamp authority", False: ", not dated", None: ""}[proved.is_dated]
    says = f"signed by {proved.subject} with {proved.algorithm}, for {days} days more{dated}"
    remedy: str | None = None
    if proved.is_dated is False:
        remedy = f"{asked.timestamp_url} did not answer: signatures end with the certificate. Check its address."
    elif days < CERTIFICATE_DAYS_MIN:
        remedy = "Put a new key and certificate in place before that: workers take them up without a restart."
    return Finding("provenance", True, says, remedy, details={"certificate": proved.digest})


async def _recipes(settings: Settings) -> Finding | tuple[Finding, ...]:
    """Read the file of recipes as workers and gateways do; nothing to say without one."""
    if settings.model.recipes_file is None:
        return ()
    recipes = list(await asyncio.to_thread(read_recipes, settings.model.recipes_file))
    names = ", ".join(recipe.name for recipe in recipes) or "none"
    return Finding("recipes", True, f"{len(recipes)} in {settings.model.recipes_file}: {names}")


async def _callbacks(settings: Settings) -> Finding | tuple[Finding, ...]:
    """Read the file of callbacks as gateways and `darkroom hooks` do; nothing to say without one."""
    hooks = settings.hooks
    if hooks.file is None:
        return ()
    receivers = await asyncio.to_thread(read_receivers, hooks)
    says = (
        f"{len(receivers)} tenants in {hooks.file}, {sum(one.url is not None for one in receivers.values())} with a URL"
    )
    if not receivers:
        return Finding("callbacks", False, says, "Add [tenants.NAME] with secrets, or `darkroom hooks` does not start.")
    return Finding("callbacks", True, says)


async def _kafka(settings: Settings) -> Finding:
    try:
        async with administering(settings.kafka, "looking at the cluster") as admin:
            cluster = await admin.describe_cluster()
    except KafkaUnavailable as error:
        remedy = "Start it (`darkroom up` starts one here), or correct the DARKROOM_KAFKA__* settings."
        return Finding("kafka", False, str(error), remedy)
    where = f"{settings.kafka.bootstrap_servers} over {settings.kafka.security_protocol}"
    return Finding("kafka", True, f"{where}, {len(cluster['brokers'])} broker(s)")


async def _rights(settings: Settings, role: Role) -> Finding:
    """Try what the role does on Kafka, by questions that change nothing."""
    try:
        missing = await missing_rights(settings, role)
    except KafkaUnavailable:
        return Finding("rights", False, "Kafka was not reached", "See the check of Kafka.")
    name = f"'{role.value}'" if " " in role.value else role.value
    if missing:
        says = f"{user_of(settings.kafka)} lacks {len(missing)} of the rights of {name}:"
        remedy = f"Grant them; `darkroom rights --role {name} --format kafka-acls` prints the commands."
        details = {"missing": [one._asdict() for one in missing]}
        return Finding("rights", False, says, remedy, notes=tuple(named(one) for one in missing), details=details)
    return Finding("rights", True, f"{user_of(settings.kafka)} has all that {name} needs")


async def _topics(settings: Settings) -> Finding:
    """Compare the topics with the settings: a sentence and its remedy for each thing that differs."""
    try:
        seen, differences = await compare_topics(settings)
    except KafkaUnavailable:
        return Finding("topics", False, "Kafka was not reached", "See the check of Kafka.")
    if missing := seen.missing():
        names = ", ".join(settings.topics.name(topic) for topic in missing)
        try:
            await would_be_made(settings, missing)
        except (KafkaUnavailable, TopicRefused) as error:
            return Finding("topics", False, str(error), "Let an administrator run `darkroom init`.")
        says = f"{names} will be made by `darkroom serve` or `darkroom send`"
    elif requests := seen.topics.get(Topic.REQUESTS):
        says = f"all {len(Topic)} exist; {requests.partitions} partitions of requests bound the workers"
    else:
        says = "not all could be read"
    if not differences:
        return Finding("topics", True, says)
    details = {"differences": [{"subject": one.subject, "says": one.says, "remedy": one.remedy} for one in differences]}
    return Finding(
        "topics",
        all(one.is_advice for one in differences),
        f"{says}; not as the settings need it:",
        "Do what each line ends with; Darkroom changes no topic that is there.",
        notes=tuple(f"{one.says}. {one.remedy}" for one in differences),
        details=details,
    )


async def bucket(settings: Settings) -> tuple[Finding, ...]:
    """Try what a worker does in the bucket, and look at what removes old objects there."""
    s3 = settings.s3
    try:
        async with MinioObjects(s3) as objects:
            if not await objects.is_there():
                says = f"{s3.bucket} will be made at {s3.endpoint} by `darkroom init` or `darkroom serve`"
                return (Finding("bucket", True, says),)
            deletes = await objects.try_out()
            retention = await objects.retention(s3.retention_days)
    except StoreUnavailable as error:
        return (Finding("bucket", False, error.what, error.remedy or None),)
    where = f"{s3.bucket}/{s3.prefix}" if s3.prefix else s3.bucket
    encryption = "" if s3.sse == "none" else f", encrypted with {s3.sse}"
    says = f"{where} at {s3.endpoint}: put, get and list work{encryption}; conditional puts hold in a race"
    remedy = "Allow s3:DeleteObject to whoever replays dead letters: these keys may not." if not deletes else None
    return (
        Finding("bucket", True, says, remedy),
        Finding("retention", True, retention.says, retention.remedy or None),
    )


async def _clocks(settings: Settings) -> Finding:
    try:
        date = await asyncio.to_thread(_date_of, settings.s3)
    except urllib3.exceptions.HTTPError as error:
        return Finding(
            "clocks", False, f"the store was not reached ({type(error).__name__})", "See the bucket's check."
        )
    if date is None:
        return Finding("clocks", True, "the store does not tell its time: not compared")
    apart = abs(time.time() - parsedate_to_datetime(date).timestamp())
    says = f"this clock and the store's are {apart:.0f} s apart"
    if apart > CLOCK_S_MAX:
        return Finding("clocks", False, says, "Run NTP on both: deadlines and signatures depend on it.")
    return Finding("clocks", True, says)


def _date_of(s3: S3Settings) -> str | None:
    with urllib3.PoolManager(ssl_context=client_context(STORE, s3.ca_file) if s3.secure else None) as pool:
        answer = pool.request("HEAD", s3.endpoint, timeout=s3.connect_timeout_s, retries=False)
        return answer.headers.get("Date")
