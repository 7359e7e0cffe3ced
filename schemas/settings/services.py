"""The settings of what is reached over the network: Kafka, its topics and the object store."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from darkroom.schemas.names import Topic
from darkroom.schemas.settings.secret_files import SecretInFile
from darkroom.schemas.wire.echo import ECHOED_BY_DEFAULT, check_name

SECTION: Final = ConfigDict(
    frozen=True, extra="forbid", allow_inf_nan=False, str_strip_whitespace=True, hide_input_in_errors=True
)
"""How every section reads: text from the environment becomes numbers, misspelt names are errors.

The text of an error leaves out what was given, which may be a password.
"""
MIB: Final = 1024 * 1024


def _from_commas(value: Any) -> Any:
    """Lists are written `a,b` in the environment, or `["a", "b"]` as other programs' settings have them."""
    if isinstance(value, str):
        if value.lstrip()[:1] == "[":
            with contextlib.suppress(ValueError):
                return tuple(json.loads(value))
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


_FOLDER_NAME: Final = r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"
"""Never `.` or `..`, nor with two dots in a row, which the keys of pose pictures may not have."""


def _folder(value: Any) -> Any:
    """A prefix ends in a slash, whether it was written or not."""
    return (
        f"{value.strip()}/" if isinstance(value, str) and value.strip() and not value.strip().endswith("/") else value
    )


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_from_commas)]
"""A list of names; separated by commas in the environment."""


class KafkaSettings(BaseModel):
    """Addresses, credentials and time limits of Kafka clients."""

    model_config = SECTION

    bootstrap_servers: str = Field(
        default="127.0.0.1:9092", min_length=1, description="host:port of one or more brokers, separated by commas."
    )
    group_id: str = Field(
        default="darkroom", min_length=1, max_length=200, description="The consumer group that all workers share."
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How the connection is protected. Anything but a private network wants TLS."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        default=None, description="How to log in, with SASL_PLAINTEXT and SASL_SSL."
    )
    sasl_username: str | None = Field(default=None, description="Who logs in.")
    sasl_password: SecretStr | None = Field(default=None, description="The password, or a file that holds it.")
    oauth_token_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^@\s]+$",
        description="With OAUTHBEARER: the token endpoint; found by oauth_issuer when not set.",
    )
    oauth_issuer: str | None = Field(
        default=None,
        pattern=r"^https?://[^@\s]+$",
        description="With OAUTHBEARER: the issuer, whose openid-configuration names the token endpoint.",
    )
    oauth_client_id: str | None = Field(default=None, description="With OAUTHBEARER: the client that logs in.")
    oauth_client_secret: SecretStr | None = Field(
        default=None, description="The client's secret, or a file that holds it."
    )
    oauth_assertion_file: Path | None = Field(
        default=None,
        description="In place of a secret: a file with a token that vouches for the client, as Kubernetes mounts one.",
    )
    oauth_scope: str | None = Field(default=None, description="Scopes to ask for, separated by spaces.")
    oauth_ca_file: Path | None = Field(
        default=None, description="Authorities to trust for the token service; the system's when not set."
    )
    ssl_cafile: Path | None = Field(
        default=None, description="The certificate authorities to trust; the system's when not set."
    )
    ssl_certfile: Path | None = Field(default=None, description="This client's certificate, for mutual TLS.")
    ssl_keyfile: Path | None = Field(default=None, description="The key of that certificate.")
    session_timeout_ms: int = Field(
        default=15_000,
        ge=1_000,
        le=300_000,
        description="A worker that is silent for so long has lost its partitions. Long enough for a pause of the "
        "whole process, short enough that a dead worker's requests move on.",
    )
    rebalance_timeout_ms: int = Field(
        default=60_000,
        ge=1_000,
        le=3_600_000,
        description="How long a rebalance waits for a worker to rejoin. Must be above worker.drain_s: the client's "
        "own default evicts a worker that is still draining.",
    )
    transaction_timeout_ms: int = Field(
        default=12_000,
        ge=1_000,
        le=900_000,
        description="A transaction of a worker that died holds back every reader for so long; ours take 20-90 ms.",
    )
    metadata_max_age_ms: int = Field(
        default=30_000,
        ge=500,
        le=3_600_000,
        description="How late workers and senders may notice partitions that were added or a topic that was made anew.",
    )
    request_timeout_ms: int = Field(
        default=20_000,
        ge=1_000,
        le=600_000,
        description="How long a broker may take to answer before it counts as away.",
    )
    echo_headers: Names = Field(
        default=ECHOED_BY_DEFAULT,
        max_length=50,
        description="Headers of a request's record that come back on its completion as they came, by name: correlation "
        "ids and the trace's context. Whatever the case; set, the list replaces the default one.",
    )

    @field_validator("echo_headers")
    @classmethod
    def _may_be_echoed(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_name(name) for name in names)

    @model_validator(mode="after")
    def _fits(self) -> KafkaSettings:
        is_oauth = self.sasl_mechanism == "OAUTHBEARER"
        if self.security_protocol.startswith("SASL"):
            needed = ("oauth_client_id",) if is_oauth else ("sasl_mechanism", "sasl_username", "sasl_password")
            missing = [name for name in needed if not getattr(self, name)]
            if missing:
                raise ValueError(f"security_protocol {self.security_protocol} needs {' and '.join(missing)}")
        set_ones = [name for name in KafkaSettings.model_fields if name.startswith("oauth_") and getattr(self, name)]
        if set_ones and not is_oauth:
            raise ValueError(f"{' and '.join(set_ones)}: for sasl_mechanism OAUTHBEARER")
        if is_oauth and not (self.oauth_token_url or self.oauth_issuer):
            raise ValueError("sasl_mechanism OAUTHBEARER needs oauth_token_url or oauth_issuer")
        if is_oauth and (self.oauth_client_secret is None) == (self.oauth_assertion_file is None):
            raise ValueError("sasl_mechanism OAUTHBEARER needs either oauth_client_secret or oauth_assertion_file")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile are set together or not at all")
        return self


class TopicSettings(BaseModel):
    """Properties of the topics that `init` makes. Their names are fixed but for the prefix."""

    model_config = SECTION

    prefix: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]{0,100}$",
        description="Put before each topic's name, so that several deployments can share a broker ('staging.'); up to "
        "100 of A-Za-z0-9._-.",
    )
    requests_partitions: int = Field(
        default=12, ge=1, le=10_000, description="Bounds the number of workers; can be raised later, never lowered."
    )
    completions_partitions: int = Field(
        default=12, ge=1, le=10_000, description="For completions, progress, cancellations and dead letters alike."
    )
    replication_factor: int = Field(
        default=-1,
        ge=-1,
        le=32,
        json_schema_extra={"not": {"const": 0}},
        description="Of the topics that Darkroom makes. -1: the broker's default.replication.factor, and its "
        "min.insync.replicas. 3 in production.",
    )
    requests_retention_hours: int = Field(
        default=7 * 24, ge=1, le=87_600, description="How long an unanswered request survives: a week's outage."
    )
    completions_retention_hours: int = Field(
        default=14 * 24, ge=1, le=87_600, description="How long outcomes can be read again; twice the requests'."
    )
    progress_retention_minutes: int = Field(
        default=10, ge=1, le=1_440, description="Progress is of no use once the picture is there."
    )
    cancellations_retention_hours: int = Field(
        default=24, ge=2, le=87_600, description="Workers read them from an hour back when they start."
    )
    dead_letters_retention_hours: int = Field(
        default=30 * 24, ge=1, le=87_600, description="Time for a person to look."
    )
    max_message_bytes: int = Field(
        default=MIB + 128 * 1024,
        ge=65_536,
        le=64 * MIB,
        description="The largest record: a request of limits.request_bytes_max with key, headers and framing.",
    )

    @field_validator("replication_factor")
    @classmethod
    def _is_a_number_of_replicas(cls, factor: int) -> int:
        if factor == 0:
            raise ValueError("must be 1 to 32, or -1 for the broker's default")
        return factor

    def name(self, topic: Topic) -> str:
        """A topic's name in this deployment."""
        return f"{self.prefix}{topic}"

    @property
    def requests(self) -> str:
        """The requests topic's name."""
        return self.name(Topic.REQUESTS)

    @property
    def completions(self) -> str:
        """The completions topic's name."""
        return self.name(Topic.COMPLETIONS)

    @property
    def progress(self) -> str:
        """The progress topic's name."""
        return self.name(Topic.PROGRESS)

    @property
    def cancellations(self) -> str:
        """The cancellations topic's name."""
        return self.name(Topic.CANCELLATIONS)

    @property
    def dead_letters(self) -> str:
        """The dead letters topic's name."""
        return self.name(Topic.DEAD_LETTERS)


class S3Settings(BaseModel):
    """Where pictures and outcomes are kept."""

    model_config = SECTION

    endpoint: str = Field(
        default="http://127.0.0.1:9000",
        pattern=r"^https?://[^/@\s]+/?$",
        description="http://host:port of the server, https:// for TLS.",
    )
    public_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^/@\s]+/?$",
        description="http(s)://host:port at which callers outside reach the server, for signed addresses; the endpoint "
        "when not set.",
    )
    credentials: Literal["static", "files", "aws", "web_identity"] = Field(
        default="static",
        description="Where keys come from: static, the settings' own; files, the same and all of them in files, which "
        "are read again when they change; aws, Amazon's own chain (environment, profile, web identity, container, "
        "instance), with the extra `aws`; web_identity, a token service.",
    )
    access_key: SecretStr | None = Field(default=None, description="The access key, or a file that holds it.")
    secret_key: SecretStr | None = Field(default=None, description="The secret key, or a file that holds it.")
    session_token: SecretStr | None = Field(
        default=None, description="The session token of temporary keys, or a file that holds it."
    )
    web_identity_token_file: Path | None = Field(
        default=None,
        description="With web_identity: the file with the token that the token service exchanges for keys.",
    )
    sts_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^/@\s]+/?$",
        description="With web_identity: http(s)://host:port of the token service; the endpoint when not set, as MinIO "
        "has it. ca_file holds for both.",
    )
    role_arn: str | None = Field(
        default=None,
        pattern=r"^[\x21-\x7e]{1,2048}$",
        description="With web_identity: the role to take. Amazon wants one, MinIO only for some policies.",
    )
    bucket: str = Field(
        default="darkroom",
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="The bucket written to; 3-63 of a-z0-9.-, as S3 wants names.",
    )
    prefix: Annotated[str, BeforeValidator(_folder)] = Field(
        default="",
        max_length=200,
        pattern=rf"^({_FOLDER_NAME}(/{_FOLDER_NAME})*/?)?$",
        description="Put before every key of ours, so that the bucket can be shared ('darkroom/'): names of folders of "
        "A-Za-z0-9._- with a slash between them and none in front, up to 200 characters. What was stored under another "
        "prefix is not looked for.",
    )
    region: str = Field(default="us-east-1", min_length=1, description="The region that requests are signed for.")
    ca_file: Path | None = Field(default=None, description="Certificate authorities to trust; the system's if not set.")
    allowed_buckets: Names = Field(
        default=(),
        max_length=100,
        description="Further buckets that pose pictures are read from, each as a whole. With a prefix, pictures in the "
        "own bucket have to lie below it; naming the own bucket here opens all of it.",
    )
    threads: int = Field(
        default=16, ge=1, le=256, description="Transfers at a time; small objects gain up to 16 and not beyond."
    )
    connect_timeout_s: ClassVar[float] = 3.0
    """A server that is there answers at once."""
    read_timeout_s: float = Field(
        default=20.0, gt=0, le=3_600, description="A transfer that stands still for so long counts as failed."
    )
    attempts: int = Field(
        default=3,
        ge=1,
        le=20,
        description="Tries of one transfer before the store counts as away and the breaker opens.",
    )
    retention_days: int = Field(
        default=30,
        ge=1,
        le=36_500,
        description="After so long a lifecycle rule removes our objects. A bucket that Darkroom made has the rule; one "
        "that was there before gets it where this is set and a prefix keeps it to our objects.",
    )
    sse: Literal["none", "AES256", "aws:kms"] = Field(
        default="none",
        description="The encryption that each put asks for, where the bucket's policy wants one: AES256 with the "
        "store's keys, aws:kms with sse_kms_key_id.",
    )
    sse_kms_key_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9:/_.-]{1,2048}$",
        description="The id or ARN of the key, with sse aws:kms; of A-Za-z0-9:/_.-.",
    )

    @model_validator(mode="after")
    def _fits(self) -> S3Settings:
        if self.sse == "aws:kms" and self.sse_kms_key_id is None:
            raise ValueError("sse aws:kms needs sse_kms_key_id")
        if self.sse != "aws:kms" and self.sse_kms_key_id is not None:
            raise ValueError(f"sse_kms_key_id is for sse aws:kms, and sse is {self.sse}")
        return self

    @model_validator(mode="after")
    def _has_one_identity(self) -> S3Settings:
        own = [name for name in ("access_key", "secret_key", "session_token") if getattr(self, name) is not None]
        exchanged = [name for name in ("web_identity_token_file", "sts_endpoint", "role_arn") if getattr(self, name)]
        if self.credentials in ("aws", "web_identity") and own:
            raise ValueError(f"credentials {self.credentials} brings its own keys: unset {' and '.join(own)}")
        if self.credentials != "web_identity" and exchanged:
            raise ValueError(
                f"{' and '.join(exchanged)}: for credentials web_identity, and credentials is {self.credentials}"
            )
        if self.credentials == "web_identity" and self.web_identity_token_file is None:
            raise ValueError("credentials web_identity needs web_identity_token_file")
        if self.session_token is not None and len(own) < 3:
            raise ValueError("session_token needs access_key and secret_key")
        if self.credentials == "files" and not self.are_keys_in_files:
            raise ValueError("credentials files needs access_key and secret_key, each in a file that _FILE names")
        return self

    @property
    def are_keys_in_files(self) -> bool:
        """Return whether each of the keys stands in a file, which may be replaced."""
        keys = (self.access_key, self.secret_key)
        token = self.session_token
        return all(isinstance(key, SecretInFile) for key in keys) and isinstance(token, SecretInFile | None)

    @property
    def token_service(self) -> str:
        """Return the address of the token service for web_identity."""
        return self.sts_endpoint or self.endpoint

    @property
    def is_retention_asked_for(self) -> bool:
        """Return whether retention_days was set, and not left at its default."""
        return "retention_days" in self.model_fields_set

    @property
    def secure(self) -> bool:
        """Return whether the endpoint is reached over TLS."""
        return self.endpoint.startswith("https://")

    @property
    def address(self) -> str:
        """host:port of the endpoint, as the minio SDK wants it."""
        return self.endpoint.partition("://")[2].rstrip("/")

    def may_read(self, bucket: str) -> bool:
        """Return whether some of the bucket's objects may be read."""
        return bucket == self.bucket or bucket in self.allowed_buckets

    def may_show(self, bucket: str, key: str) -> bool:
        """Return whether a request may name this object as its pose picture.

        All of an allowed bucket may be shown. Of the own bucket only what is below the prefix: the rest of a shared
        bucket belongs to others, and whoever may write a request has not been let in there. Where the own bucket is
        itself among the allowed ones, its owner has opened all of it.
        """
        return bucket in self.allowed_buckets or (bucket == self.bucket and key.startswith(self.prefix))
