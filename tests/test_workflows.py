"""The workflows on GitHub: valid, pinned, with the least permissions, and never for hours."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
every_workflow = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
# Writing is what these jobs are for; all others only read.
LONG = {("book", "build"): 330}  # trains on the open data; it is cached, and goes on
MAY_WRITE = {("nightly", "tell"): {"issues"}, ("book", "deploy"): {"pages", "id-token"}}


def read(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # `on` is no bool here


@pytest.mark.slow
def test_workflows_follow_the_public_schema() -> None:
    schema = ["--builtin-schema", "vendor.github-workflows"]
    command = [sys.executable, "-m", "check_jsonschema", *schema, *map(str, FILES)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@every_workflow
def test_actions_are_pinned_by_commit_and_one_version_each(path: Path) -> None:
    pattern = r"uses: ([\w/-]+)@(\S+)(  # v\d+\.\d+\.\d+)?\n"
    everywhere = "".join(file.read_text(encoding="utf-8") for file in FILES)
    pins = dict(found[:2] for found in re.findall(pattern, everywhere))
    text = path.read_text(encoding="utf-8")
    used = re.findall(pattern, text)
    assert len(used) == text.count("uses:")
    for action, commit, version in used:
        assert re.fullmatch("[0-9a-f]{40}", commit) and version, action
        assert pins[action] == commit, f"{action} has two versions"


@every_workflow
def test_jobs_have_time_limits_and_the_least_permissions(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["defaults"]["run"]["shell"] == "bash -eo pipefail {0}"
    for name, job in workflow["jobs"].items():
        assert int(job["timeout-minutes"]) <= LONG.get((path.stem, name), 90)
        writes = {key for key, value in job.get("permissions", {}).items() if value == "write"}
        assert writes == MAY_WRITE.get((path.stem, name), set())
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "give it through env: a shell would run it"


@every_workflow
def test_what_was_executed_is_kept_after_a_failure(path: Path) -> None:
    for name, job in read(path)["jobs"].items():
        if any(step.get("run", "").startswith(("make book", ".ci/run")) for step in job["steps"]):
            kept = [step for step in job["steps"] if step.get("if") == "failure()"]
            assert [step["with"]["path"] for step in kept] == ["_build/executed"], name


def test_the_supported_versions_are_tested() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    jobs = read(ROOT / ".github" / "workflows" / "test.yml")["jobs"]
    tested = jobs["units"]["strategy"]["matrix"]["python"]
    assert tested == re.findall(r":: Python :: (3\.\d+)", text)


def test_what_the_online_edition_trained_is_kept_even_if_it_fails() -> None:
    steps = read(ROOT / ".github" / "workflows" / "book.yml")["jobs"]["build"]["steps"]
    caches = [step for step in steps if step.get("uses", "").startswith("actions/cache/")]
    restore, save = (step["with"] for step in caches)
    assert caches[1]["if"] == "always()" and restore["key"] == save["key"]
    assert restore["path"] == save["path"] and "_build/executed" in save["path"]
    assert {"run": "make book PROFILE=online"} in steps
