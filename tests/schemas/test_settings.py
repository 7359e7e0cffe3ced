"""Settings: where each comes from and which wins, that secrets stay secret, and that every error says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from darkroom.schemas.names import Topic
from darkroom.schemas.settings import Settings, SettingsError, load_settings, shown


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stack is found by accident."""
    monkeypatch.chdir(tmp_path)


def toml(folder: Path, text: str) -> Path:
    path = folder / "darkroom.toml"
    path.write_text(text, encoding="utf-8")
    return path


def stack(folder: Path, **environment: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "stack.json"
    path.write_text(json.dumps({"environment": environment, "processes": {}}), encoding="utf-8")
    return path


RUNNING = {
    "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:41234",
    "DARKROOM_S3__ENDPOINT": "http://127.0.0.1:42345",
    "DARKROOM_S3__ACCESS_KEY": "stack-key",
    "DARKROOM_S3__SECRET_KEY": "stack-secret",
    "DARKROOM_S3__BUCKET": "stack-bucket",
}


def test_published_defaults() -> None:
    settings = load_settings(environ={})
    assert settings.kafka.bootstrap_servers == "127.0.0.1:9092"
    assert settings.kafka.group_id == "darkroom"
    assert 10_000 <= settings.kafka.transaction_timeout_ms <= 15_000
    assert settings.kafka.rebalance_timeout_ms > settings.worker.drain_s * 1000
    assert (settings.s3.endpoint, settings.s3.bucket, settings.s3.secure) == (
        "http://127.0.0.1:9000",
        "darkroom",
        False,
    )
    assert (settings.batch.max_rows, settings.batch.linger_ms, settings.device) == (8, 5, "auto")
    assert settings.topics.requests_partitions == 12
    assert settings.topics.max_message_bytes > settings.limits.request_bytes_max
    assert settings.model.path is None
    assert settings.worker.name
    assert settings.discovered_stack is None


def test_settings_made_in_place_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_KAFKA__GROUP_ID", "from-the-environment")
    assert Settings().kafka.group_id == "darkroom"
    assert load_settings().kafka.group_id == "from-the-environment"


def test_flags_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    config = toml(
        tmp_path, '[kafka]\ngroup_id = "file"\nsession_timeout_ms = 7000\n[batch]\nmax_rows = 2\nlinger_ms = 1\n'
    )
    environ = {"DARKROOM_KAFKA__GROUP_ID": "environment", "DARKROOM_BATCH__MAX_ROWS": "3"}
    overrides = {"kafka.group_id": "flag", "batch": {"max_rows": None}, "device": None}
    settings = load_settings(config, overrides, environ=environ)
    assert settings.kafka.group_id == "flag"
    assert settings.batch.max_rows == 3
    assert settings.kafka.session_timeout_ms == 7000
    assert settings.batch.linger_ms == 1
    assert settings.batch.calibrate_s == 10


def test_environment_text_becomes_values() -> None:
    environ = {
        "DARKROOM_DEVICE": "cuda:1",
        "DARKROOM_S3__ALLOWED_BUCKETS": "poses, photos",
        "DARKROOM_WORKER__DRAIN_S": "12.5",
        "DARKROOM_MODEL__PATH": "/models/sdxl",
        "darkroom_log__level": "debug",
        "DARKROOM_TOPICS__PREFIX": "staging.",
        "DARKROOM_MODEL__NAME": "",
        "PATH": "/usr/bin",
    }
    settings = load_settings(environ=environ)
    assert settings.device == "cuda:1"
    assert settings.s3.allowed_buckets == ("poses", "photos")
    assert settings.worker.drain_s == 12.5
    assert settings.model.path == Path("/models/sdxl")
    assert settings.log.level == "debug"
    assert settings.model.name is None
    assert settings.topics.requests == "staging.generation.requests"


def test_service_variables_of_a_cluster_are_not_taken_for_settings() -> None:
    load_settings(environ={"DARKROOM_PORT": "tcp://10.0.0.1:80", "DARKROOM_GATEWAY_SERVICE_HOST": "10.0.0.1"})


def test_derived_values() -> None:
    settings = load_settings(
        environ={"DARKROOM_S3__ENDPOINT": "https://s3.example:9000/", "DARKROOM_S3__ALLOWED_BUCKETS": "poses"}
    )
    assert (settings.s3.secure, settings.s3.address) == (True, "s3.example:9000")
    assert settings.s3.may_read("darkroom")
    assert settings.s3.may_read("poses")
    assert not settings.s3.may_read("payroll")
    assert settings.s3.may_show("darkroom", "anything.png")
    topics = settings.topics
    names = [topics.requests, topics.completions, topics.progress, topics.cancellations, topics.dead_letters]
    assert names == [topics.name(topic) for topic in Topic] == [topic.value for topic in Topic]


@pytest.mark.parametrize(
    ("bucket", "key", "opened", "is_shown"),
    [
        ("shared", "team/darkroom/studio/one/pose.png", (), True),
        ("shared", "team/darkroom-old/pose.png", (), False),
        ("shared", "models/sdxl.safetensors", (), False),
        ("shared", "models/sdxl.safetensors", ("shared",), True),
        ("poses", "any/where.png", ("poses",), True),
        ("poses", "team/darkroom/pose.png", (), False),
    ],
)
def test_in_a_shared_bucket_a_request_names_what_is_below_the_prefix(
    bucket: str, key: str, opened: tuple[str, ...], is_shown: bool
) -> None:
    given = {"s3.bucket": "shared", "s3.prefix": "team/darkroom", "s3.allowed_buckets": opened}
    assert load_settings(overrides=given, environ={}).s3.may_show(bucket, key) is is_shown


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings(environ={}).kafka.group_id = "x"


# --- Secrets ---------------------------------------------------------------------------------------------


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    settings = load_settings(environ={"DARKROOM_S3__SECRET_KEY": "hunter2", "DARKROOM_S3__ACCESS_KEY": "me"})
    assert settings.s3.secret_key == SecretStr("hunter2")
    entries = shown(settings)
    assert entries["s3.secret_key"]["value"] == "********"
    assert entries["kafka.sasl_password"]["value"] is None
    assert "hunter2" not in json.dumps(entries) + repr(settings) + str(settings)


def test_secrets_from_files(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2\n", encoding="utf-8")
    settings = load_settings(environ={"DARKROOM_S3__SECRET_KEY_FILE": str(file)})
    assert settings.s3.secret_key == SecretStr("hunter2")
    config = toml(tmp_path, f'[s3]\nsecret_key_file = "{file}"\n')
    assert load_settings(config, environ={}).s3.secret_key == SecretStr("hunter2")
    above = load_settings(config, environ={"DARKROOM_S3__SECRET_KEY": "stronger"})
    assert above.s3.secret_key == SecretStr("stronger")


def test_a_secret_in_a_file_is_the_one_that_the_file_has_now(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2", encoding="utf-8")
    secret = load_settings(environ={"DARKROOM_S3__SECRET_KEY_FILE": str(file)}).s3.secret_key
    assert secret is not None
    file.write_text("a longer one\n", encoding="utf-8")
    assert secret.get_secret_value() == "a longer one"
    for unusable in ("", "x" * 100_000):
        file.write_text(unusable, encoding="utf-8")
        assert secret.get_secret_value() == "a longer one"
    file.unlink()
    assert secret.get_secret_value() == "a longer one"
    file.write_text("the last", encoding="utf-8")
    assert secret.get_secret_value() == "the last"
    assert "the last" not in f"{secret} {secret!r}"


def test_secret_files_that_are_no_use(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text(" \n", encoding="utf-8")
    name = "DARKROOM_KAFKA__SASL_PASSWORD_FILE"
    for path in (empty, tmp_path / "missing", tmp_path):
        with pytest.raises(SettingsError, match=name):
            load_settings(environ={name: str(path)})
    with pytest.raises(SettingsError, match="both set"):
        load_settings(environ={name: str(empty), "DARKROOM_KAFKA__SASL_PASSWORD": "x"})


def test_a_wrong_secret_is_not_repeated(tmp_path: Path) -> None:
    config = toml(tmp_path, "[s3]\nsecret_key = 271828\n")
    with pytest.raises(SettingsError, match="DARKROOM_S3__SECRET_KEY") as caught:
        load_settings(config, environ={})
    assert "271828" not in str(caught.value)


# --- The running stack -----------------------------------------------------------------------------------


def test_a_running_stack_is_found_where_nothing_else_is_said(tmp_path: Path) -> None:
    stack(tmp_path / ".darkroom", **RUNNING)
    settings = load_settings(environ={"DARKROOM_BATCH__MAX_ROWS": "3"}, overrides={"s3.bucket": "mine"})
    assert settings.discovered_stack == Path(".darkroom/stack.json")
    assert settings.kafka.bootstrap_servers == "127.0.0.1:41234"
    assert settings.s3.endpoint == "http://127.0.0.1:42345"
    assert settings.s3.secret_key == SecretStr("stack-secret")
    assert settings.s3.bucket == "mine"
    assert settings.batch.max_rows == 3


def test_a_stack_elsewhere_is_named_by_a_variable(tmp_path: Path) -> None:
    path = stack(tmp_path / "elsewhere", **RUNNING)
    assert load_settings(environ={}).discovered_stack is None
    settings = load_settings(environ={"DARKROOM_STACK_DIR": str(path.parent)})
    assert settings.discovered_stack == path
    assert settings.s3.bucket == "stack-bucket"


@pytest.mark.parametrize("address", ["kafka.bootstrap_servers", "s3.endpoint"])
def test_a_stack_is_not_looked_for_where_an_address_is_said(tmp_path: Path, address: str) -> None:
    stack(tmp_path / ".darkroom", **RUNNING)
    value = "http://other:1" if address == "s3.endpoint" else "other:1"
    section, name = address.split(".")
    config = toml(tmp_path, f'[{section}]\n{name} = "{value}"\n')
    environ = {f"DARKROOM_{section}__{name}".upper(): value}
    for settings in (
        load_settings(environ={}, overrides={address: value}),
        load_settings(environ=environ),
        load_settings(config, environ={}),
    ):
        assert settings.discovered_stack is None
        assert settings.s3.secret_key is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"environment": 3}', '{"environment": {"DARKROOM_X__Y": "1"}}'])
def test_a_torn_stack_file_is_told(tmp_path: Path, text: str) -> None:
    path = stack(tmp_path / ".darkroom")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match="DARKROOM_"):
        load_settings(environ={})


def test_sizes_to_compile_are_pairs_of_pixels() -> None:
    environ = {"DARKROOM_MODEL__COMPILE_SIZES": "1024x1024, 832x1216"}
    assert load_settings(environ=environ).model.sizes_to_compile == [(1024, 1024), (832, 1216)]


# --- Errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "also"),
    [
        ("DARKROOM_BATCH__MAX_ROWS", "many", "'many', set by the environment"),
        ("DARKROOM_BATCH__MAX_ROWS", "0", "must be at least 1"),
        ("DARKROOM_WORKER__DRAIN_S", "nan", "finite"),
        ("DARKROOM_KAFKA__BOOTSTRAP_SERVER", "x", "is DARKROOM_KAFKA__BOOTSTRAP_SERVERS meant?"),
        ("DARKROOM_KAFAK__GROUP_ID", "x", "is DARKROOM_KAFKA meant?"),
        ("DARKROOM_DEVICE__INDEX", "1", "is not a setting"),
        ("DARKROOM_KAFKA", "{}", "one by one"),
        ("DARKROOM_DEVICE", "gpu", "cuda:1"),
        ("DARKROOM_MODEL__VAE_DEVICE", "cuda", "Where pictures are decoded"),
        ("DARKROOM_MODEL__COMPILE_SIZES", "1024x1024,big", "'big' is not a size"),
        ("DARKROOM_MODEL__COMPILE_SIZES", ",".join(["64x64"] * 17), "at most 16 sizes"),
        ("DARKROOM_S3__ENDPOINT", "127.0.0.1:9000", "http://host:port"),
        ("DARKROOM_S3__ENDPOINT", "http://me:secret@host:9000", "http://host:port"),
        ("DARKROOM_KAFKA__SECURITY_PROTOCOL", "TLS", "SASL_SSL"),
        ("DARKROOM_LOG__FORMAT", "xml", "console"),
    ],
)
def test_an_error_names_the_variable_and_the_remedy(name: str, value: str, also: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={name: value})
    message = str(caught.value)
    assert name in message
    assert also in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"DARKROOM_KAFKA__SECURITY_PROTOCOL": "SASL_SSL"}, "needs sasl_mechanism and sasl_username and sasl_password"),
        ({"DARKROOM_KAFKA__SSL_CERTFILE": "/x"}, "ssl_certfile and ssl_keyfile"),
        ({"DARKROOM_WORKER__DRAIN_S": "60"}, "kafka.rebalance_timeout_ms must be above worker.drain_s"),
        ({"DARKROOM_GATEWAY__REPAIR_AFTER_S": "4"}, "repair_after_s must be above kafka_timeout_s"),
        ({"DARKROOM_TOPICS__MAX_MESSAGE_BYTES": "100000"}, "topics.max_message_bytes"),
    ],
)
def test_settings_that_do_not_fit_together(environ: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match="fit together") as caught:
        load_settings(environ=environ)
    assert said in str(caught.value)


def test_sasl_with_everything_it_needs() -> None:
    environ = {
        "DARKROOM_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "DARKROOM_KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
        "DARKROOM_KAFKA__SASL_USERNAME": "me",
        "DARKROOM_KAFKA__SASL_PASSWORD": "x",
    }
    assert load_settings(environ=environ).kafka.sasl_username == "me"


def test_the_origin_of_a_wrong_value_is_told(tmp_path: Path) -> None:
    config = toml(tmp_path, "[batch]\nmax_rows = 'x'\n")
    with pytest.raises(SettingsError, match=r"set by the file .*darkroom\.toml"):
        load_settings(config, environ={})
    with pytest.raises(SettingsError, match="set by a flag"):
        load_settings(config, {"batch.max_rows": 0}, environ={"DARKROOM_BATCH__MAX_ROWS": "y"})


@pytest.mark.parametrize(("text", "said"), [("[kafka", "is not TOML"), ("[kafak]\nx=1\n", "DARKROOM_KAFAK")])
def test_files_that_are_no_use(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_settings(toml(tmp_path, text), environ={})
    with pytest.raises(SettingsError, match="--config"):
        load_settings(tmp_path / "missing.toml", environ={})


# --- Documentation ---------------------------------------------------------------------------------------


def test_every_setting_is_shown_with_its_variable_and_described() -> None:
    entries = shown(load_settings(environ={}))
    assert entries["kafka.group_id"]["env"] == "DARKROOM_KAFKA__GROUP_ID"
    assert entries["device"]["env"] == "DARKROOM_DEVICE"
    assert entries["kafka.group_id"]["value"] == "darkroom"
    assert all(entry["description"] for entry in entries.values())
    json.dumps(entries)


def test_every_shown_value_can_be_set_by_its_variable() -> None:
    entries = shown(load_settings(environ={}))
    environ = {entry["env"]: as_text(entry["value"]) for entry in entries.values() if entry["value"] is not None}
    again = shown(load_settings(environ=environ))
    assert {path: entry["value"] for path, entry in again.items()} == {
        path: entry["value"] for path, entry in entries.items()
    }


def as_text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


UNITS = ("_ms", "_s", "_hours", "_minutes", "_days", "_bytes", "_rows", "_pixels", "_hour", "_max", "_min")
COUNTS = {  # numbers whose unit is the thing that they count
    "topics.requests_partitions",
    "topics.completions_partitions",
    "topics.replication_factor",
    "s3.threads",
    "s3.attempts",
    "worker.max_attempts",
    "limits.min_side",
    "limits.max_width",
    "limits.max_height",
    "limits.max_count",
    "limits.max_steps",
    "worker.metrics_port",
    "gateway.port",
    "hooks.metrics_port",
}


def test_every_number_has_its_unit_in_its_name() -> None:
    values = {path: entry["value"] for path, entry in shown(load_settings(environ={})).items()}
    numbers = {path for path, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    assert {path for path in numbers if not path.endswith(UNITS)} == COUNTS


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"OIDC_ISSUER": "https://id.example"}, "oidc_audience"),
        ({"OIDC_AUDIENCE": "darkroom"}, "oidc_issuer"),
        ({"OIDC_JWKS_URL": "https://id.example/jwks"}, "needs oidc_issuer"),
        ({"OIDC_ISSUER": "http://id.example", "OIDC_AUDIENCE": "darkroom"}, "https://"),
        ({"CALLS_PER_MINUTE_MAX": "10", "CALLS_BURST_MAX": "20"}, "calls_burst_max"),
        ({"ALLOWED_ORIGINS": "https://shop.example/path"}, "an origin is"),
        ({"ALLOWED_ORIGINS": "*"}, "an origin is"),
        ({"REDIS_URL": "http://redis:6379"}, "redis://"),
        ({"SESSION_SECRET": "short"}, "DARKROOM_ACCESS__SESSION_SECRET"),
    ],
)
def test_access_settings_that_cannot_be_meant_are_refused(environ: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(environ={f"DARKROOM_ACCESS__{name}": value for name, value in environ.items()})
    assert says in str(raised.value)
    assert "short" not in str(raised.value)


def test_the_gateways_secrets_come_from_files_and_are_masked(tmp_path: Path) -> None:
    for name, text in (("secret", "s" * 40), ("redis", "redis://:hunter2@redis:6379/0")):
        (tmp_path / name).write_text(text + "\n")
    settings = load_settings(
        environ={
            "DARKROOM_ACCESS__SESSION_SECRET_FILE": str(tmp_path / "secret"),
            "DARKROOM_ACCESS__REDIS_URL_FILE": str(tmp_path / "redis"),
        }
    )
    assert settings.access.session_secret == SecretStr("s" * 40)
    assert settings.access.loopback_only
    assert "hunter2" not in json.dumps(shown(settings))


@pytest.mark.parametrize(
    ("given", "right"),
    [("darkroom", "darkroom/"), ("team/darkroom/", "team/darkroom/"), (" a.b/c_d ", "a.b/c_d/"), (".ours", ".ours/")],
)
def test_a_prefix_ends_in_a_slash_however_it_is_written(given: str, right: str) -> None:
    assert load_settings(environ={"DARKROOM_S3__PREFIX": given}).s3.prefix == right


@pytest.mark.parametrize(
    "given", ["/darkroom", "a//b", "../a", "a/./b", "a/..", "team one", "é/", "a..b", "x" * 201, "/"]
)
def test_a_prefix_that_is_no_folder_is_refused(given: str) -> None:
    with pytest.raises(SettingsError, match="DARKROOM_S3__PREFIX"):
        load_settings(environ={"DARKROOM_S3__PREFIX": given})


def test_an_encryption_key_belongs_to_kms_alone() -> None:
    with pytest.raises(SettingsError, match="needs sse_kms_key_id"):
        load_settings(environ={"DARKROOM_S3__SSE": "aws:kms"})
    with pytest.raises(SettingsError, match="sse_kms_key_id is for sse aws:kms"):
        load_settings(environ={"DARKROOM_S3__SSE": "AES256", "DARKROOM_S3__SSE_KMS_KEY_ID": "key"})
