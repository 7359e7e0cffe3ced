"""Proves what a platform team looks for in a pod: GPUs, probes, drains, security, and the jobs around the fleet."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.chart import EXAMPLES, WORKLOADS, environment_of, one, pod_of, render, values_of, with_values

FLEET, LAPTOP = (values_of(next(one for one in EXAMPLES if one.stem == name)) for name in ("fleet", "laptop"))


def worker(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return pod_of(one(render(with_values(FLEET, changes or {})), "Deployment", "worker"))


def test_a_worker_asks_for_a_gpu_of_enough_memory_where_gpus_are() -> None:
    pod = worker()
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["resources"]["requests"]["nvidia.com/gpu"] == 1
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["priorityClassName"] == "batch-gpu"
    assert pod["nodeSelector"] == {"node.kubernetes.io/instance-type": "g5.2xlarge"}
    assert {entry["key"] for entry in pod["tolerations"]} == {"nvidia.com/gpu", "spot"}
    node = pod["affinity"]["nodeAffinity"]
    required = node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert required[0]["matchExpressions"] == [{"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["11999"]}]
    soft = worker({"worker.gpuMemory": {"required": False}})["affinity"]["nodeAffinity"]
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in soft
    assert len(soft["preferredDuringSchedulingIgnoredDuringExecution"]) == 2


def test_a_worker_claims_its_gpus_where_the_cluster_allocates_dynamically() -> None:
    pod = worker({"worker.resourceClaimTemplates": ["one-gpu", "shared.mig"]})
    assert pod["resourceClaims"] == [
        {"name": "gpu-0", "resourceClaimTemplateName": "one-gpu"},
        {"name": "gpu-1", "resourceClaimTemplateName": "shared.mig"},
    ]
    (container,) = pod["containers"]
    assert container["resources"]["claims"] == [{"name": "gpu-0"}, {"name": "gpu-1"}]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert "nvidia.com/gpu" not in container["resources"]["requests"]
    assert "affinity" not in pod, "the claim says which GPU"


def test_a_worker_on_a_cpu_asks_for_none() -> None:
    pod = pod_of(one(render(LAPTOP), "Deployment", "worker"))
    assert "nvidia.com/gpu" not in str(pod)
    assert "affinity" not in pod


def test_a_start_may_take_as_long_as_loading_does() -> None:
    (container,) = worker({"worker.loadSeconds": 605, "autoscaling.keda.cooldownSeconds": 900})["containers"]
    startup = container["startupProbe"]
    assert startup["httpGet"] == {"path": "/readyz", "port": "metrics"}
    # The first look is at once, so the last one is a period less than their number says.
    assert (startup["failureThreshold"] - 1) * startup["periodSeconds"] >= 605
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["ports"] == [{"name": "metrics", "containerPort": 9464}]


def test_a_drain_fits_the_grace_period() -> None:
    manifests = render(FLEET)
    deployment = one(manifests, "Deployment", "worker")
    drain_s = float(environment_of(manifests, deployment)["DARKROOM_WORKER__DRAIN_S"])
    assert pod_of(deployment)["terminationGracePeriodSeconds"] >= drain_s + 30
    assert one(manifests, "PodDisruptionBudget", "worker")["spec"]["maxUnavailable"] == 1
    assert {entry["topologyKey"] for entry in pod_of(deployment)["topologySpreadConstraints"]} == {
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    }


def test_the_autoscaler_alone_says_how_many_workers() -> None:
    assert "replicas" not in one(render(FLEET), "Deployment", "worker")["spec"]
    assert one(render(LAPTOP), "Deployment", "worker")["spec"]["replicas"] == 1


def test_every_container_is_nobody_on_a_read_only_root() -> None:
    for manifest in render(FLEET):
        if manifest["kind"] not in WORKLOADS:
            continue
        pod = pod_of(manifest)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert "/tmp" in writable
        home = next(entry["value"] for entry in container["env"] if entry["name"] == "HOME")
        assert any(home.startswith(folder) for folder in writable)


def test_only_a_worker_that_lowers_its_cost_speaks_to_the_api_server() -> None:
    manifests = render(FLEET)
    assert one(manifests, "Role")["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}]
    assert pod_of(one(manifests, "Deployment", "worker"))["automountServiceAccountToken"] is True
    others = [m for m in manifests if m["kind"] in WORKLOADS and m["metadata"]["name"] != "demo-darkroom-worker"]
    assert len(others) == 4
    assert all(pod_of(manifest)["automountServiceAccountToken"] is False for manifest in others)
    without = render(with_values(FLEET, {"worker.podDeletionCost": False}))
    assert not [manifest for manifest in without if manifest["kind"] in ("Role", "RoleBinding")]
    deployment = one(without, "Deployment", "worker")
    assert pod_of(deployment)["automountServiceAccountToken"] is False
    assert "DARKROOM_WORKER__POD_NAME" not in environment_of(without, deployment)


def test_topics_and_offsets_are_there_before_workers_and_stay() -> None:
    manifests = render(with_values(FLEET, {"init.growPartitions": True}))
    job = one(manifests, "Job", "init")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert pod_of(job)["containers"][0]["args"] == ["init", "--grow-partitions"]
    settings = next(m for m in manifests if m["metadata"]["name"] == "demo-darkroom-init-settings")
    assert int(settings["metadata"]["annotations"]["helm.sh/hook-weight"]) < int(
        job["metadata"]["annotations"]["helm.sh/hook-weight"]
    )
    assert settings["data"] == one(manifests, "ConfigMap", "settings")["data"]
    refresh = one(manifests, "CronJob", "init")
    assert pod_of(refresh)["containers"][0]["args"] == ["init"]


@pytest.mark.parametrize("part", ["worker", "gateway", "init"])
def test_a_part_may_go_where_it_must_and_nowhere_else(part: str) -> None:
    policies = [m for m in render(FLEET) if m["kind"] == "NetworkPolicy"]
    (policy,) = (m["spec"] for m in policies if m["metadata"]["name"] == f"demo-darkroom-{part}")
    if part == "init":
        (hook,) = (m for m in policies if m["metadata"]["name"] == "demo-darkroom-init-hook")
        assert hook["spec"] == policy, "the job needs its way out before the release's own objects are there"
        assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    ports = sorted(port["port"] for rule in policy["egress"] for port in rule["ports"])
    assert ports == sorted([53, 53, 9093, 9000] + ([443, 6443] if part == "worker" else []))
    came = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert came == {"worker": {9464}, "gateway": {8080}, "init": set()}[part]


def test_the_gateway_is_reached_by_its_ingress_and_has_its_keys() -> None:
    manifests = render(FLEET)
    (rule,) = one(manifests, "Ingress")["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    service = one(manifests, "Service")
    assert backend == {"name": service["metadata"]["name"], "port": {"name": service["spec"]["ports"][0]["name"]}}
    gateway = one(manifests, "Deployment", "gateway")
    assert gateway["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    environment = environment_of(manifests, gateway)
    assert environment["DARKROOM_ACCESS__KEYS_FILE"] == "/etc/darkroom/access/keys.jsonl"
    assert environment["DARKROOM_ACCESS__SESSION_SECRET_FILE"] == "/etc/darkroom/access/session-secret"
    assert "DARKROOM_ACCESS__REDIS_URL_FILE" not in environment
    for pod in (pod_of(one(manifests, "Deployment", part)) for part in ("gateway", "worker")):
        container = pod["containers"][0]
        named = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert named["DARKROOM_POLICY__FILE"] == "/etc/darkroom/policy/policy.toml"
        assert named["DARKROOM_MODEL__RECIPES_FILE"] == "/etc/darkroom/recipes/recipes.toml"
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume.get("configMap") for volume in pod["volumes"]}
        for name in ("policy", "recipes"):
            assert mounted[name] == f"/etc/darkroom/{name}"
            assert volumes[name] == {"name": f"darkroom-{name}"}
    assert pod_of(gateway)["containers"][0]["args"][0] == "gateway"


HOOKS: dict[str, Any] = {
    "hooks.enabled": True,
    "secrets.hooks": {"name": "darkroom-callbacks", "key": "callbacks.toml"},
}


def test_callbacks_are_delivered_by_pods_of_their_own_with_the_gateways_file() -> None:
    manifests = render(with_values(FLEET, HOOKS))
    hooks, gateway = (one(manifests, "Deployment", part) for part in ("hooks", "gateway"))
    (container,) = pod_of(hooks)["containers"]
    assert container["args"] == ["hooks"]
    assert container["ports"] == [{"name": "metrics", "containerPort": 9109}]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    environment = environment_of(manifests, hooks)
    assert (environment["DARKROOM_HOOKS__METRICS_HOST"], environment["DARKROOM_HOOKS__METRICS_PORT"]) == (
        "0.0.0.0",
        "9109",
    )
    for workload in (hooks, gateway):
        assert environment_of(manifests, workload)["DARKROOM_HOOKS__FILE"] == "/etc/darkroom/hooks/callbacks.toml"
        volumes = {volume["name"]: volume.get("secret") for volume in pod_of(workload)["volumes"]}
        assert volumes["hooks"] == {"secretName": "darkroom-callbacks", "defaultMode": 0o440}
    assert "hooks" not in str(pod_of(one(manifests, "Deployment", "worker"))["volumes"])
    assert one(manifests, "PodDisruptionBudget", "hooks")["spec"]["maxUnavailable"] == 1
    policies = [m for m in manifests if m["kind"] == "NetworkPolicy"]
    (policy,) = (m["spec"] for m in policies if m["metadata"]["name"] == "demo-darkroom-hooks")
    assert sorted(port["port"] for rule in policy["egress"] for port in rule["ports"]) == [53, 53, 80, 443, 9000, 9093]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == {9109}


def test_workers_alone_hold_the_key_that_signs_pictures() -> None:
    manifests = render(FLEET)
    worker, gateway = (pod_of(one(manifests, "Deployment", part)) for part in ("worker", "gateway"))
    (container,) = worker["containers"]
    named = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert named["DARKROOM_PROVENANCE__CERT_FILE"] == "/etc/darkroom/provenance/tls.crt"
    assert named["DARKROOM_PROVENANCE__KEY_FILE"] == "/etc/darkroom/provenance/tls.key"
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume.get("secret") for volume in worker["volumes"]}
    assert mounted["provenance"] == "/etc/darkroom/provenance"
    assert volumes["provenance"] == {"secretName": "darkroom-provenance", "defaultMode": 0o440}
    assert "provenance" not in str(gateway)


def test_a_changed_setting_is_a_roll_out() -> None:
    def checksum(changes: dict[str, Any]) -> str:
        deployment = one(render(with_values(FLEET, changes)), "Deployment", "worker")
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"])

    assert checksum({}) == checksum({"autoscaling.maxReplicas": 20})
    assert checksum({}) != checksum({"settings.batch": {"max_rows": 4}})
