"""The settings of who may do what at the gateway: keys, tokens, the page's cookie, quotas and the edge's bounds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from darkroom.schemas.settings.services import MIB, SECTION, Names

_ORIGIN = re.compile(r"https?://([^/@\s?#*:\[\]]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.IGNORECASE)
_OWN_PORTS = {"http": ":80", "https": ":443"}
_PROVIDER = r"^(https://[^/@\s?#]+|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?)(/[^\s?#]*)?$"


def _origin(text: str) -> str:
    """Return an origin as browsers send it (RFC 6454, 6.2): in lower case, without its scheme's own port.

    Raises `ValueError` for what no browser sends: a path, a wildcard, `null`, a name that is not in ASCII.
    """
    said = f"allowed_origins has {text!r}; an origin is https://host or https://host:port"
    if not _ORIGIN.fullmatch(text):
        raise ValueError(said)
    if not text.isascii():
        raise ValueError(f"{said}, with the host's name in its ASCII form (xn--...)")
    scheme, _, host = text.lower().partition("://")
    return f"{scheme}://{host.removesuffix(_OWN_PORTS[scheme])}"


class AccessSettings(BaseModel):
    """Who may do what at the gateway. With neither keys nor an issuer only its own machine is served.

    The class variables are no settings: their reasons hold in every deployment.
    """

    model_config = SECTION

    keys_file: Path | None = Field(
        default=None, description="The API keys' hashes, a JSON object a line; `darkroom keys new` writes it."
    )
    reload_s: ClassVar[float] = 2.0
    """How long a new or a revoked key may go unnoticed; a look is a stat call."""
    oidc_issuer: str | None = Field(
        default=None,
        pattern=_PROVIDER,
        description="The OpenID provider whose bearer tokens are taken, exactly as in their `iss`: https://..., or "
        "http:// on this machine.",
    )
    oidc_audience: str | None = Field(
        default=None, min_length=1, max_length=500, description="What tokens must have in `aud`, to be meant for us."
    )
    oidc_jwks_url: str | None = Field(
        default=None,
        pattern=_PROVIDER,
        description="Where the provider's keys are: https://..., or http:// on this machine; asked of the issuer's "
        "/.well-known/openid-configuration when not set.",
    )
    oidc_tenant_claim: str = Field(
        default="tenant", min_length=1, max_length=200, description="The claim that names the caller's tenant."
    )
    oidc_scope_claim: str = Field(
        default="scope",
        min_length=1,
        max_length=200,
        description="The claim with the caller's scopes, submit, read, cancel and erase: a list, or text with spaces.",
    )
    oidc_scope_prefix: str = Field(
        default="", max_length=200, description="What stands before our scopes' names in that claim, darkroom: say."
    )
    oidc_leeway_s: ClassVar[float] = 30.0
    """How far the provider's clock may be off, for exp and nbf."""
    oidc_keys_ttl_s: ClassVar[float] = 300.0
    """How old the provider's keys may be before they are asked for again."""
    oidc_keys_stale_s_max: ClassVar[float] = 21_600.0
    """How long the last keys are used while the provider is away: an outage, not a withdrawn key."""
    oidc_timeout_s: ClassVar[float] = 5.0
    """How long the provider may take to answer; a call waits for it."""
    session_secret: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="Signs the page's cookies, 32 characters or more, the same for all replicas; a random one for this "
        "process when not set, which ends all sessions at a restart.",
    )
    session_hours: ClassVar[float] = 12.0
    """How long one signs in for: a working day."""
    sign_ins_per_minute_max: ClassVar[int] = 20
    """Attempts to sign in from one address; keys cannot be guessed anyway."""
    cookie_secure: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether the cookie goes over https only: auto as the call came; on behind a proxy that ends TLS "
        "and does not say so.",
    )
    allowed_origins: Names = Field(
        default=(),
        max_length=100,
        description="Origins, https://host, whose pages may call with a key or token (CORS); never with the cookie.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="redis:// or rediss:// of the Redis that counts for all replicas; each counts alone when not set.",
    )
    redis_timeout_s: ClassVar[float] = 0.5
    """Redis that takes longer counts as away; every call waits for it."""
    redis_retry_s: ClassVar[float] = 5.0
    """How long this process counts alone before it tries Redis again."""
    calls_per_minute_max: int = Field(
        default=6_000, ge=1, le=10_000_000, description="Calls of one tenant in any minute: 100 a second."
    )
    calls_burst_max: int = Field(
        default=500,
        ge=1,
        le=1_000_000,
        description="Calls of one tenant in any one second.",
    )
    jobs_unfinished_max: int = Field(
        default=1_000,
        ge=1,
        le=1_000_000,
        description="Jobs of one tenant that are accepted and not finished: what it may put before everybody else.",
    )
    jobs_forgotten_s: ClassVar[float] = 21_600.0
    """A job counts as unfinished for so long at the most: its end may come while no gateway listens."""
    body_bytes_max: int = Field(
        default=18 * MIB,
        ge=1_024,
        le=1024 * MIB,
        description="The largest body of a call, a pose picture's upload included; counted as it comes. Above "
        "limits.pose_picture_bytes_max and limits.request_bytes_max together.",
    )
    body_read_timeout_s: ClassVar[float] = 30.0
    """How long a body may take to come: 18 MiB at 5 Mbit/s."""
    headers_max: ClassVar[int] = 100
    """Headers of a call; browsers send some 20."""
    header_bytes_max: ClassVar[int] = 16 * 1024
    """All headers of a call together; a token has 1-4 KiB."""

    @field_validator("allowed_origins")
    @classmethod
    def _as_browsers_write_them(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_origin(origin) for origin in origins)

    @property
    def loopback_only(self) -> bool:
        """Return whether nobody can be told from anybody, so that only this machine is served."""
        return self.keys_file is None and self.oidc_issuer is None

    @model_validator(mode="after")
    def _fits(self) -> AccessSettings:
        if (self.oidc_issuer is None) != (self.oidc_audience is None):
            raise ValueError("oidc_issuer and oidc_audience are set together: a token meant for another is none for us")
        if self.oidc_jwks_url is not None and self.oidc_issuer is None:
            raise ValueError("oidc_jwks_url needs oidc_issuer and oidc_audience")
        if self.calls_burst_max > self.calls_per_minute_max:
            raise ValueError("calls_burst_max must be at most calls_per_minute_max")
        if self.redis_url is not None and not self.redis_url.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("redis_url must begin with redis:// or rediss://")
        return self
