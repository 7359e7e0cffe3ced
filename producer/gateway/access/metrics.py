"""What access control tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class AccessMetrics:
    """The counters, in the registry of whoever shows them."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self.file_failures = Counter(
            "darkroom_access_file_failures",
            "Changed files of keys or of the prompt policy that could not be used.",
            ["file"],
            registry=registry,
        )
        self.provider_failures = Counter(
            "darkroom_access_provider_failures",
            "Fetches of the identity provider's keys that failed.",
            registry=registry,
        )
        self.redis_failures = Counter(
            "darkroom_access_redis_failures",
            "Times that Redis did not count, so that this process did.",
            registry=registry,
        )
        self.quota_refusals = Counter(
            "darkroom_access_quota_refusals", "Calls and jobs above a quota, by its code.", ["code"], registry=registry
        )
        self.policy_rejections = Counter(
            "darkroom_policy_rejections", "Prompts that the policy rejected.", ["category"], registry=registry
        )
