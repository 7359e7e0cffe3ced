"""The settings of the HTTP gateway: where it listens, how long callers may wait, and what it may hold."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from darkroom.schemas.settings.services import MIB, SECTION, Names


class GatewaySettings(BaseModel):
    """One gateway process. It keeps nothing that another could not find out.

    The class variables are no settings: their reasons hold in every deployment.
    """

    model_config = SECTION

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="The address to listen on: loopback, until somebody decides who may call. Containers set 0.0.0.0.",
    )
    port: int = Field(
        default=8080, ge=0, le=65_535, description="The port of the API and the web page; 0 takes a free one."
    )
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._~/-]*)?$",
        max_length=300,
        description="http(s)://host[:port][/path] at which callers reach it, put before the addresses in answers; "
        "without it they are paths. What callers write into Host is never used.",
    )
    wait_s_max: float = Field(
        default=60.0,
        ge=0,
        le=3_600,
        description="The longest ?wait= of a poll; longer ones are cut to it. Most proxies give an answer a minute.",
    )
    generate_timeout_s: float = Field(
        default=120.0,
        ge=1,
        le=3_600,
        description="How long POST /generate waits for the picture before it answers 504 with the job's id: some "
        "pictures of SDXL on a busy device.",
    )
    backlog_s_max: float | None = Field(
        default=None,
        gt=0,
        le=604_800,
        description="Above so many estimated seconds of unfinished requests new jobs are refused with 503 and a "
        "Retry-After; null: never. Without a worker or a rate nothing is estimated, and jobs are accepted.",
    )
    openai_models: Names = Field(
        default=("darkroom",),
        min_length=1,
        max_length=20,
        description="The names that calls of the OpenAI API may give as `model`; every one is this deployment's model. "
        "Programs that cannot be told another name than dall-e-3 need it here.",
    )
    events_open_max: ClassVar[int] = 2_000
    """Event streams open at a time; about 100 KB each."""
    events_comment_s: ClassVar[float] = 15.0
    """A comment is sent into a silent event stream so often: proxies close silent ones after 30-60 s."""
    events_write_s: ClassVar[float] = 30.0
    """A reader that takes nothing of its event stream for so long is left."""
    connections_max: ClassVar[int] = 4_096
    """Connections at a time, event streams included; beyond them callers get 503."""
    keep_alive_s: int = Field(
        default=20, ge=1, le=600, description="An idle connection is closed after so long; above a load balancer's."
    )
    shutdown_s: int = Field(
        default=10, ge=1, le=600, description="How long SIGTERM lets calls finish. Event streams end at once."
    )
    kafka_timeout_s: float = Field(
        default=5.0, ge=0.1, le=120, description="How long Kafka may take with one call before it counts as away."
    )
    store_timeout_s: float = Field(
        default=6.0,
        ge=0.1,
        le=120,
        description="How long the store may take with one call, two tries included, before it counts as away.",
    )
    probe_s: ClassVar[float] = 5.0
    """How often Kafka and the store are asked for their health (/readyz)."""
    retry_after_s: ClassVar[int] = 5
    """What Retry-After says when Kafka or the store is away."""
    repair_after_s: float = Field(
        default=15.0,
        ge=0,
        le=3_600,
        description="A claim so old without an event is sent when its job is polled. Above kafka_timeout_s, so that a "
        "replica that is still sending it is not raced.",
    )
    result_check_s: ClassVar[float] = 2.0
    """How long a look into the store that found no outcome is believed while completions are followed: polls of one job
    cost the store no more than a read in so long."""
    waiting_check_s: ClassVar[float] = 20.0
    """How often the store is looked into for a job that is waited for, lest a completion was missed."""
    progress: Literal["none", "steps", "previews"] = Field(
        default="steps",
        description="The progress of requests that do not say: without events nobody can tell running from queued.",
    )
    images: Literal["proxy", "redirect"] = Field(
        default="proxy",
        description="How pictures go out: through the gateway, which needs nothing of the caller's network, or by a "
        "redirect to a signed address of s3.public_endpoint, which spares it the bytes.",
    )
    image_url_s: ClassVar[int] = 600
    """How long a signed address works: a page's stay, S3's limit a week."""
    uploads_decoding_max: ClassVar[int] = 2
    """Uploaded pictures decoded at a time, at up to 4 bytes a pixel of limits.pose_picture_pixels_max."""
    completions_kept_max: ClassVar[int] = 5_000
    """Completions kept to answer polls from, at about 3 KB each."""
    progress_kept_max: ClassVar[int] = 2_000
    """Jobs whose latest progress is kept, previews included."""
    progress_kept_bytes: ClassVar[int] = 16 * MIB
    """Bytes of previews kept for them; old ones go first."""
    claims_kept_max: ClassVar[int] = 5_000
    """Claims kept, so that polls read them once, at about 5 KB each."""
    sent_kept_max: ClassVar[int] = 50_000
    """Jobs of which it is remembered where in Kafka they stand."""
    jobs_listed_max: ClassVar[int] = 100_000
    """Jobs that GET /v1/generations can list, of all tenants together, at about 1 KB each; the oldest go first."""

    @model_validator(mode="after")
    def _fits(self) -> GatewaySettings:
        if self.events_open_max >= self.connections_max:
            raise ValueError("events_open_max must be below connections_max, or event streams keep out everything else")
        if self.repair_after_s <= self.kafka_timeout_s:
            raise ValueError("repair_after_s must be above kafka_timeout_s, or jobs that are being sent are sent twice")
        return self
