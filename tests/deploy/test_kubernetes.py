"""The manifests, by the schemas of Kubernetes and read together with the image and the settings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from deploy.local.process import PROJECT
from tests.deploy.compose import EXAMPLE, compose

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FOLDER = PROJECT / "deploy" / "kubernetes"
_BASE = _FOLDER / "base"
_PRODUCTION = _FOLDER / "production"
_WORKERS = ("scheduler", "dispatcher", "aggregator")
#: Versions that are still supported, and the newest that the library knows.
_VERSIONS = ("1.33", "1.35", "1.37")
_COMMANDS = {"keeper": "eventlog retain --months 24 --dry-run", "audit": "pipeline verify --deep"}
_METRICS = ("towpath_oldest_age_seconds",)


def resources(folder: Path) -> list[dict[str, Any]]:
    """What the folder's kustomization names, but for other folders."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    names = [name for name in kustomization["resources"] if name.endswith(".yaml")]
    return [document for name in names for document in yaml.safe_load_all((folder / name).read_text())]


BASE = resources(_BASE)
ALL = [*BASE, *resources(_PRODUCTION)]
BY_NAME = {(one["kind"], one["metadata"]["name"]): one for one in ALL}


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("resource", ALL, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_every_resource_is_valid_and_has_no_field_that_kubernetes_does_not_know(
    resource: dict[str, Any], version: str
) -> None:
    kubernetes_validate.validate(resource, version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**BY_NAME["Service", "web"], "specs": {}}, _VERSIONS[-1], strict=True)


def test_the_kustomizations_name_every_file_and_change_only_what_is_there() -> None:
    for folder in (_BASE, _PRODUCTION):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        patches = kustomization.get("patches", [])
        used = {*kustomization["resources"], *(patch["path"] for patch in patches if "path" in patch)}
        assert {path.name for path in folder.glob("*.yaml")} - used == {"kustomization.yaml"}
        for patch in patches:
            document: Any = yaml.safe_load((folder / patch["path"]).read_text()) if "path" in patch else None
            target = patch.get("target") or {"kind": document["kind"], "name": document["metadata"]["name"]}
            matching = [one for one in BASE if one["kind"] == target["kind"] and _matches(target["name"], one)]
            assert matching, f"nothing to patch: {patch}"
            if document is not None:
                for one in matching:
                    kubernetes_validate.validate(_merged(one, document), _VERSIONS[-1], strict=True)
        for image in kustomization.get("images", []):
            assert any(container["image"] == image["name"] for _, container in _containers())


def test_every_container_runs_a_role_of_the_image_confined(variables: dict[str, str]) -> None:
    image = (PROJECT / "deploy" / "Dockerfile").read_text()
    script = (PROJECT / "deploy" / "role").read_text()
    (user,) = re.findall(r"^USER (\d+)$", image, re.MULTILINE)
    seen = set()
    for owner, container in _containers():
        command, role, *arguments = container["args"]
        if owner["kind"] == "CronJob":
            assert (command, role) == ("python", "manage.py")
            assert " ".join(arguments) == _COMMANDS[owner["metadata"]["name"]]
        else:
            assert command == "deploy/role"
            assert f'"{role} run"' in script
            seen.add(role)
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        pod = _pod(owner)
        assert pod["securityContext"]["runAsUser"] == int(user)
        assert pod["automountServiceAccountToken"] is False
        assert container["resources"]["limits"]["memory"]
        for probe in ("startupProbe", "livenessProbe"):
            if (check := container.get(probe, {}).get("exec")) is not None:
                assert check["command"] == ["deploy/role", role, "healthy"]
    assert seen == {"web", *_WORKERS, "migrate", "wait"}
    assert compose(variables)["services"].keys() >= seen - {"wait"}


def test_every_long_running_container_is_probed_and_given_time_to_stop() -> None:
    shutdown_seconds = int(re.findall(r"^#SHUTDOWN_SECONDS=(\d+)$", EXAMPLE.read_text(), re.MULTILINE)[0])
    for role in ("web", *_WORKERS):
        pod = BY_NAME["Deployment", role]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["livenessProbe"]
        assert container["startupProbe"]
        assert pod["terminationGracePeriodSeconds"] > shutdown_seconds
        (wait,) = pod["initContainers"]
        assert wait["args"] == ["deploy/role", "wait"]
    web = BY_NAME["Deployment", "web"]["spec"]["template"]["spec"]["containers"][0]
    # A dead liveness probe restarts the process: it must not wait for a service. A readiness probe may.
    assert web["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert web["readinessProbe"]["httpGet"]["path"] == "/readyz"
    hosts = BY_NAME["ConfigMap", "towpath"]["data"]["ALLOWED_HOSTS"].split(",")
    assert {"name": "Host", "value": hosts[0]} in web["readinessProbe"]["httpGet"]["httpHeaders"]
    assert hosts[0] in yaml.safe_load((_PRODUCTION / "settings.yaml").read_text())["data"]["ALLOWED_HOSTS"].split(",")


def test_budgets_and_services_select_what_they_are_for() -> None:
    for kind, roles in (("PodDisruptionBudget", ("web", "dispatcher", "aggregator")), ("Service", ("web",))):
        assert {name for found, name in BY_NAME if found == kind} == set(roles)
        for role in roles:
            selector = BY_NAME[kind, role]["spec"]["selector"]
            labels = BY_NAME["Deployment", role]["spec"]["template"]["metadata"]["labels"]
            assert selector.get("matchLabels", selector) == labels
            assert BY_NAME["Deployment", role]["spec"]["replicas"] > 1
    assert BY_NAME["Deployment", "scheduler"]["spec"]["replicas"] == 1
    assert BY_NAME["Deployment", "scheduler"]["spec"]["strategy"] == {"type": "Recreate"}


def test_secrets_are_named_and_never_written() -> None:
    assert not [one for one in ALL if one["kind"] == "Secret"]
    by_role = {owner["metadata"]["name"]: _secrets(container) for owner, container in _containers()}
    assert by_role == {
        "web": {"towpath", "towpath-web"},
        **{role: {"towpath", "towpath-pipeline"} for role in _WORKERS},
        "migrate": {"towpath", "towpath-migrate"},
        "keeper": {"towpath", "towpath-keeper"},
        "audit": {"towpath"},
    }
    # Of RabbitMQ's users, each pod has its own role's only; the dispatcher has two secrets more, the others one.
    own = {role: {role} for role in ("web", *_WORKERS)}
    own |= {"migrate": {"dispatcher", "aggregator", "scheduler", "web"}, "keeper": set()}
    own["audit"] = {"DATABASE_URL", "EVENT_STORE_VERIFIER_URL"}
    own["dispatcher"] |= {"EVENT_STORE_VERIFIER_URL", "SEAL_KEY"}
    own["migrate"] |= {"EVENT_STORE_VERIFIER_URL"}
    own["web"] |= {"EVENT_STORE_EXPLORER_URL"}
    for owner, container in _containers():
        if container["name"] != "wait":
            keys = {one["valueFrom"]["secretKeyRef"]["key"] for one in container.get("env", []) if "valueFrom" in one}
            assert keys == own[owner["metadata"]["name"]]
    page = (PROJECT / "docs" / "deployment.md").read_text()
    for name in {"towpath-verifier", "towpath-explorer", "towpath-rabbitmq", "towpath-seals"}.union(*by_role.values()):
        assert f"create secret generic {name} " in page


def test_networks_are_closed_but_for_the_ports_that_are_used() -> None:
    policies = {name: one["spec"] for (kind, name), one in BY_NAME.items() if kind == "NetworkPolicy"}
    assert policies["deny-all"] == {
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "towpath"}},
        "policyTypes": ["Ingress", "Egress"],
    }
    web_port = BY_NAME["Deployment", "web"]["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"]
    assert [port["port"] for port in policies["web"]["ingress"][0]["ports"]] == [web_port]
    metrics = [port["port"] for port in policies["metrics"]["ingress"][0]["ports"]]
    for role in ("web", *_WORKERS):
        annotations = BY_NAME["Deployment", role]["spec"]["template"]["metadata"]["annotations"]
        assert int(annotations["prometheus.io/port"]) in metrics
    for role in _WORKERS:
        container = BY_NAME["Deployment", role]["spec"]["template"]["spec"]["containers"][0]
        assert {"name": "METRICS_PORT", "value": str(container["ports"][0]["containerPort"])} in container["env"]


def test_aggregators_are_scaled_by_the_age_of_the_oldest_event() -> None:
    autoscaler = BY_NAME["HorizontalPodAutoscaler", "aggregator"]["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == "aggregator"
    assert 1 < autoscaler["minReplicas"] < autoscaler["maxReplicas"]
    (metric,) = autoscaler["metrics"]
    assert metric["external"]["metric"]["name"] in _METRICS
    assert metric["external"]["metric"]["name"] in (PROJECT / "docs" / "deployment.md").read_text()


def _containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every container with the resource that it is of."""
    for one in BASE:
        if one["kind"] in {"Deployment", "Job", "CronJob"}:
            pod = _pod(one)
            for container in (*pod.get("initContainers", []), *pod["containers"]):
                yield one, container


def _pod(resource: dict[str, Any]) -> dict[str, Any]:
    spec = resource["spec"]
    pod: dict[str, Any] = spec.get("jobTemplate", {}).get("spec", spec)["template"]["spec"]
    return pod


def _secrets(container: dict[str, Any]) -> set[str]:
    return {source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source}


def _matches(pattern: str, resource: dict[str, Any]) -> bool:
    return re.fullmatch(pattern, resource["metadata"]["name"]) is not None


def _merged(resource: Any, patch: Any) -> Any:
    """The resource with a strategic merge patch, as far as these go: lists are merged by `name`, or replaced."""
    if isinstance(resource, dict) and isinstance(patch, dict):
        changed = {key: _merged(resource.get(key), value) for key, value in patch.items()}
        return {**resource, **changed, **({"metadata": resource["metadata"]} if "metadata" in resource else {})}
    if isinstance(resource, list) and all("name" in one for one in patch):
        by_name = {one["name"]: one for one in patch}
        kept = [_merged(one, by_name.pop(one["name"], {})) for one in resource]
        return [*kept, *by_name.values()]
    return patch


def test_no_pod_has_variables_of_the_services_beside_it() -> None:
    """`METRICS_PORT=tcp://...`, for a service that somebody calls `metrics`."""
    specs = [_pod(owner) for owner, _ in _containers()]

    assert {spec["enableServiceLinks"] for spec in specs} == {False}
