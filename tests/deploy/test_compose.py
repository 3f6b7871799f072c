"""docker-compose.yml, .env.example and deploy/role, read together with the application's settings."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from deploy.local.loopback import is_answering
from deploy.local.process import PROJECT, Process, Program
from deploy.local.traffic import sign_up_without_end
from tests.deploy.compose import EXAMPLE, FILE, ROLES, compose, new_env, read_env, variables
from tests.forked import run_python
from tests.ports import any_free_port
from tests.variables import settings as variables_of_the_settings

#: Read by the settings, but no business of a deployment: for tests, and another name of EVENT_STORE_URL.
_NOT_DEPLOYED = {"FAILPOINTS", "CLICKHOUSE_URL"}
#: Of the image (where heartbeats are) or of a role (where it shows its metrics), and no choice of a deployment.
_OF_THE_IMAGE = {"HEARTBEAT_DIR", "METRICS_PORT"}
#: In the containers' environment, but not for the settings: for deploy/role and the modules it runs.
_NOT_SETTINGS = {
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "ROLE",
    "WEB_WORKERS",
    "GRANT_ROLES",
    "RABBITMQ_ADMIN_URL",
    "RABBITMQ_AGGREGATOR_URL",
    "RABBITMQ_QUEUE_TYPE",
    "RABBITMQ_SCHEDULER_URL",
    "RABBITMQ_WEB_URL",
}
#: Written in compose, not in `.env`, because they are made of other variables.
_COMPOSED = {"DATABASE_URL", "RABBITMQ_URL", "EVENT_STORE_URL", "EVENT_STORE_VERIFIER_URL", "EVENT_STORE_EXPLORER_URL"}
#: With a secret that the other roles do not have.
_OF_SOME_ROLES = {
    "EVENT_STORE_VERIFIER_URL": {"dispatcher", "migrate"},
    "EVENT_STORE_EXPLORER_URL": {"web"},
    "SEAL_KEY": {"dispatcher"},
}


@pytest.fixture(scope="module")
def filled(variables: dict[str, str]) -> dict[str, Any]:
    """The compose file with the variables of a new `.env`."""
    return compose(variables)


_SERVERS = {"postgres", "rabbitmq", "clickhouse"}


def test_the_file_is_valid_by_the_schema_of_the_compose_specification() -> None:
    check_schema("vendor.compose-spec", FILE)


def test_every_variable_is_explained_in_the_example_and_has_the_same_default_there() -> None:
    explained = {name: (value, not commented) for commented, name, value in _example()}
    for name, default in variables().items():
        if name == "TAG":
            continue
        assert name in explained, f"say in .env.example what {name} is"
        value, is_asked_for = explained[name]
        assert is_asked_for == (default is None), f"{name}: asked for in .env.example, or has a default here, not both"
        if default:
            assert value == default, f"{name} has two defaults"
    assert set(explained) == set(variables()) - {"TAG"}


def test_nothing_has_a_password_of_its_own() -> None:
    secrets = {name for name in variables() if "PASSWORD" in name or name.endswith("_KEY")}
    assert len(secrets) > 10
    # Nothing is unsafe without it: seals are not signed.
    secrets.remove("SEAL_KEY")
    assert variables()["SEAL_KEY"] == ""
    assert all(variables()[name] is None for name in secrets)
    assert all(value == "" for commented, name, value in _example() if name in secrets)
    with pytest.raises(KeyError, match="deploy/new-env"):
        compose({})


def test_a_new_env_has_a_secret_of_its_own_for_each_and_is_never_overwritten(tmp_path: Path) -> None:
    made = new_env(tmp_path)

    secrets = [made[name] for name, default in variables().items() if default is None]
    assert len(set(secrets)) == len(secrets)
    assert all(re.fullmatch(r"[0-9a-f]{64}", secret) for secret in secrets)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    again = subprocess.run([PROJECT / "deploy" / "new-env", tmp_path], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "exists" in again.stderr
    assert read_env(tmp_path / ".env") == made


@pytest.mark.parametrize("left", ["a file that all may read", "a link to a file", "a link to nothing"])
def test_a_new_env_is_written_through_nothing_that_is_there(tmp_path: Path, left: str) -> None:
    elsewhere, draft = tmp_path / "elsewhere", tmp_path / ".env.draft"
    if left.startswith("a link"):
        draft.symlink_to(elsewhere)
    if left != "a link to nothing":
        draft.write_text("old")  # through the link, where it is one
        draft.chmod(0o666)

    new_env(tmp_path)

    assert stat.S_IMODE((tmp_path / ".env").lstat().st_mode) == 0o600
    assert not elsewhere.exists() or elsewhere.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} - {"elsewhere", ".env.draft"} == {".env", ".env.example"}


@pytest.mark.parametrize("target", ["elsewhere", "nowhere", "a folder"])
def test_a_new_env_does_not_follow_a_link_named_env(tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "a folder").mkdir()
    (tmp_path / ".env").symlink_to(tmp_path / target)
    shutil.copy(EXAMPLE, tmp_path / ".env.example")

    done = subprocess.run([PROJECT / "deploy" / "new-env", tmp_path], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "exists" in done.stderr
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    assert list((tmp_path / "a folder").iterdir()) == []


def test_every_setting_reaches_every_role_and_no_variable_is_unknown(filled: dict[str, Any]) -> None:
    read = variables_of_the_settings() - _NOT_DEPLOYED - _OF_THE_IMAGE
    for role in (*ROLES, "migrate"):
        given = set(filled["services"][role]["environment"])
        of_others = {name for name, owners in _OF_SOME_ROLES.items() if role not in owners}
        assert read - given == of_others, f"{role} does not get them: add them to x-settings and to .env.example"
        assert given - read - _NOT_SETTINGS - _OF_THE_IMAGE == set(), f"nobody reads what {role} gets"
    assert read - _COMPOSED - {name for _, name, _ in _example()} == set()


def test_the_settings_have_the_defaults_that_the_example_says(variables: dict[str, str]) -> None:
    """With the example's defaults written out, the settings are those without them."""
    defaults = {name: value for commented, name, value in _example() if commented and value}
    code = (
        "import json, django; from django.conf import settings as s; django.setup();"
        "of = lambda name: getattr(s.TOWPATH, name.lower(), getattr(s, name, None));"
        f"print(json.dumps({{name: of(name) for name in {sorted(defaults)!r}}}, sort_keys=True))"
    )
    environment = {str(key): str(value) for key, value in compose(variables)["services"]["web"]["environment"].items()}
    bare, written_out = (
        json.loads(_python("-c", code, **(environment | changes)).stdout)
        for changes in ({}, {name: defaults[name] for name in defaults if name not in {"ALLOWED_HOSTS", "ENVIRONMENT"}})
    )
    assert bare == written_out


def test_what_runs_has_limits_a_way_to_restart_and_a_check_of_its_health(filled: dict[str, Any]) -> None:
    for name, service in filled["services"].items():
        is_one_shot = name in {"migrate", "keeper"}
        # The traffic ends by itself, and stays so.
        wanted = "no" if is_one_shot else "on-failure" if name == "traffic" else "unless-stopped"
        assert service["restart"] == wanted, name
        assert service["mem_limit"], name
        own_image = service["image"].startswith("towpath:")
        assert own_image or service["healthcheck"]["test"], name
        assert own_image or re.search(r":v?\d+(\.\d+)*(-[a-z]+)?@sha256:[0-9a-f]{64}$", service["image"]), (
            f"{name}: pin a version"
        )
        for other, condition in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other == "migrate" else "service_healthy"
            assert condition["condition"] == wanted, f"{name} -> {other}"
            assert other == "migrate" or "healthcheck" in filled["services"][other] or other in ROLES


def test_a_container_gets_longer_to_stop_than_the_worker_takes(filled: dict[str, Any]) -> None:
    shutdown_seconds = next(int(value) for _, name, value in _example() if name == "SHUTDOWN_SECONDS")
    for role in ROLES:
        grace = filled["services"][role]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > shutdown_seconds


def test_everything_is_published_on_loopback_only(filled: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in filled["services"].items() if "ports" in service}
    assert set(published) == {"web", "rabbitmq", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_the_application_runs_unprivileged_on_a_file_system_it_cannot_change(filled: dict[str, Any]) -> None:
    for role in (*ROLES, "migrate", "keeper", "traffic"):
        service = filled["services"][role]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_every_container_has_only_the_capabilities_that_its_entrypoint_needs(filled: dict[str, Any]) -> None:
    for name, service in filled["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        added = set(service.get("cap_add", []))
        if name in {"postgres", "rabbitmq", "clickhouse"}:
            assert added <= {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}, name
        else:
            assert not added, name
        assert not service.keys() & {"privileged", "pid", "network_mode", "ipc", "devices"}, name


def test_a_container_reaches_the_services_that_it_asks_and_no_others(filled: dict[str, Any]) -> None:
    services, networks = filled["services"], filled["networks"]
    assert all(service["networks"] for service in services.values())
    assert {name for service in services.values() for name in service["networks"]} == set(networks)
    assert all(networks[name] == {"internal": True} for name in ("database", "broker", "store"))

    def reached(name: str) -> set[str]:
        own = set(services[name]["networks"])
        return {other for other, service in services.items() if own & set(service["networks"])} & _SERVERS

    assert {name: reached(name) for name in (*ROLES, "migrate", "keeper", "traffic", "grafana")} == {
        "web": {"postgres", "rabbitmq", "clickhouse"},
        "scheduler": {"rabbitmq"},
        "dispatcher": {"postgres", "rabbitmq", "clickhouse"},
        "aggregator": {"postgres", "rabbitmq", "clickhouse"},
        "migrate": {"postgres", "rabbitmq", "clickhouse"},
        "keeper": {"postgres", "clickhouse"},
        "traffic": set(),
        "grafana": {"rabbitmq"},  # what is published shares a network
    }
    assert not {*reached("postgres"), *reached("clickhouse")} - {"postgres", "clickhouse"}


def test_a_container_has_its_own_secrets_and_no_others(filled: dict[str, Any], variables: dict[str, str]) -> None:
    secrets = {name: value for name, value in variables.items() if "PASSWORD" in name or name.endswith("_KEY")}
    have = {
        service: {name for name, secret in secrets.items() if secret in json.dumps(content.get("environment", {}))}
        for service, content in filled["services"].items()
    }
    keys = {"SECRET_KEY", "EVENT_HASH_KEY"}
    store = {"CLICKHOUSE_READER_PASSWORD", "CLICKHOUSE_EXPLORER_PASSWORD"}
    assert have["web"] == keys | store | {"POSTGRES_WEB_PASSWORD", "RABBITMQ_WEB_PASSWORD"}
    assert have["scheduler"] == keys | {"RABBITMQ_SCHEDULER_PASSWORD"}
    for role in ("dispatcher", "aggregator"):
        broker = f"RABBITMQ_{role.upper()}_PASSWORD"
        verifier = {"CLICKHOUSE_VERIFIER_PASSWORD"} if role == "dispatcher" else set()
        assert have[role] == keys | verifier | {broker, "POSTGRES_PIPELINE_PASSWORD", "CLICKHOUSE_WRITER_PASSWORD"}
    assert {name for name in have["migrate"] if name.startswith("CLICKHOUSE_")} == {
        "CLICKHOUSE_MIGRATOR_PASSWORD",
        "CLICKHOUSE_VERIFIER_PASSWORD",
    }
    assert have["keeper"] == keys | {"POSTGRES_MIGRATOR_PASSWORD", "CLICKHOUSE_KEEPER_PASSWORD"}
    assert have["traffic"] == have["prometheus"] == set()
    assert have["grafana"] == {"GRAFANA_PASSWORD"}
    assert have["rabbitmq"] == {"RABBITMQ_ADMIN_PASSWORD"}
    assert all(name.startswith("POSTGRES_") for name in have["postgres"])
    assert all(name.startswith("CLICKHOUSE_") for name in have["clickhouse"])


def test_urls_name_services_of_the_file_and_the_ports_they_are_asked_for_their_health_on(
    filled: dict[str, Any],
) -> None:
    services = filled["services"]
    ports = {"postgres": 5432, "rabbitmq": 5672, "clickhouse": 8123}
    for role in (*ROLES, "migrate", "keeper"):
        environment = services[role]["environment"]
        for name in sorted(_COMPOSED & environment.keys()):
            parts = urlsplit(environment[name])
            assert parts.hostname in services
            assert parts.port == ports[str(parts.hostname)]
            assert parts.hostname in services[role]["depends_on"] or "migrate" in services[role]["depends_on"]
    assert f"//clickhouse:{ports['clickhouse']}/ping" in " ".join(services["clickhouse"]["healthcheck"]["test"])
    dockerfile = (PROJECT / "deploy" / "Dockerfile").read_text()
    (exposed,) = re.findall(r"^EXPOSE (\d+)$", dockerfile, re.MULTILINE)
    assert f"0.0.0.0:{exposed}" in (PROJECT / "deploy" / "role").read_text()
    assert services["web"]["ports"][0].endswith(f":{exposed}")
    assert urlsplit(services["traffic"]["environment"]["WEB_URL"]).port == int(exposed)
    hosts = services["web"]["environment"]["ALLOWED_HOSTS"].split(",")
    assert {"web", "127.0.0.1"} <= set(hosts), "the demo traffic and the health check ask for these"


def test_every_mounted_file_of_the_project_exists(filled: dict[str, Any]) -> None:
    mounted = {
        volume.split(":")[0]
        for service in filled["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    }
    # Prometheus' and Grafana's files come with the metrics.
    for source in sorted(mounted):
        assert (PROJECT / source).exists(), source
    named = {
        volume.split(":")[0]
        for service in filled["services"].values()
        for volume in service.get("volumes", [])
        if not volume.startswith("./")
    }
    assert named == set(filled["volumes"])


def test_the_demo_s_traffic_ends_when_the_web_has_been_away(capsys: pytest.CaptureFixture[str]) -> None:
    """`docker compose stop` without the profile stops the web, and leaves the traffic to itself."""
    sign_up_without_end(f"http://127.0.0.1:{any_free_port()}", per_second=1000, give_up_seconds=0.0)

    assert "no sign-up for 0 s" in capsys.readouterr().out


def test_the_web_says_no_error_on_a_file_system_that_it_cannot_change(
    variables: dict[str, str], tmp_path: Path
) -> None:
    # Given a home that nobody can make a folder in
    port = any_free_port()
    given = {name: str(value) for name, value in compose(variables)["services"]["web"]["environment"].items()}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    log = tmp_path / "web.log"
    web = Process(
        Program(
            name="web",
            argv=("env", "-u", "XDG_RUNTIME_DIR", "deploy/role", "web"),
            log=log,
            environment={**given, "PATH": path, "HOME": "/proc/home", "BIND": f"127.0.0.1:{port}", "METRICS_PORT": ""},
            is_ready=lambda: is_answering(f"http://127.0.0.1:{port}/healthz"),
        )
    )

    # When it has started, and ended
    web.start()
    try:
        web.wait_until_ready()
    finally:
        web.stop()

    # Then no line is an error
    said = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line for line in said if line["level"] not in {"info", "debug"}] == []


def test_an_unknown_role_is_refused_with_the_names_of_all() -> None:
    done = subprocess.run(
        [PROJECT / "deploy" / "role", "cook"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 2
    assert all(role in done.stderr for role in (*ROLES, "migrate", "demo"))


def test_the_roles_run_the_commands_that_the_docs_say() -> None:
    script = (PROJECT / "deploy" / "role").read_text()
    page = (PROJECT / "docs" / "deployment.md").read_text()
    table = re.findall(r"^\| (web|scheduler|dispatcher|aggregator) \| `([^`]+)` \|$", page, re.MULTILINE)
    assert len(table) == len(ROLES)
    for role, command in table:
        assert f'"{role} run"' in script
        of_any_role = command.replace(f"run {role}", 'run "$role"')
        assert f"exec {of_any_role}" in script, f"{role}: docs/deployment.md and deploy/role differ"


def test_the_docs_say_which_roles_are_started_and_which_have_a_health_check() -> None:
    script = (PROJECT / "deploy" / "role").read_text()
    page = (PROJECT / "docs" / "deployment.md").read_text()
    started, rest = page.split("and `deploy/role ROLE healthy` checks its health.")
    listed = set(re.findall(r"^\| `(\w+)` \|", rest.split("\n\n")[1], re.MULTILINE))

    by_role = set(re.findall(r"`(\w+)`", started.rsplit("`deploy/role ROLE` starts", 1)[1]))
    assert by_role == set(re.findall(r'"(\w+) healthy"', script))
    # The page says of the others that one ends, and that the other is not run by this script.
    assert listed - by_role == {"migrate", "keeper"}
    assert '"migrate run")' in script
    assert "keeper" not in script


def check_schema(schema: str, *files: Path) -> None:
    """Fails with the reasons when a file is not valid by a schema that check-jsonschema ships."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def _example() -> list[tuple[bool, str, str]]:
    """(is commented out, name, value) of each variable of .env.example."""
    found = re.findall(r"^(#?)([A-Z_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE)
    return [(bool(commented), name, value) for commented, name, value in found]


def _python(*arguments: str, **environment: object) -> subprocess.CompletedProcess[str]:
    return run_python(
        *arguments,
        cwd=PROJECT,
        env={
            "PATH": os.environ["PATH"],
            "DJANGO_SETTINGS_MODULE": "backend.config.settings",
            **{name: str(value) for name, value in environment.items()},
        },
    )
