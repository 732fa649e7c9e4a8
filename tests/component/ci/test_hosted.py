"""Files for GitHub and GitLab: valid by the services' own schemas, without findings, and every command in them runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.ci.kinds import Request, TimeOfDay
from pipeline.ci.registry import KINDS
from pipeline.config import line_loader
from pipeline.config.settings import Settings
from pipeline.core import process
from pipeline.errors import ExitCode, UsageError
from tests.fixtures.checkouts import make_checkout
from tests.fixtures.quickline import builder_images
from tests.fixtures.workshop import Workshop

SCHEMAS = {"github": "vendor.github-workflows", "gitlab": "vendor.gitlab-ci"}
NAMES = {"github": ".github/workflows/lvs-fullnat-nightly.yml", "gitlab": ".gitlab-ci.yml"}
BIN = Path(sys.executable).parent


def rendered(kind: str, *lines: str, options: Mapping[str, str] | None = None, **settings: Any) -> str:
    loaded = tuple(map(line_loader.load, lines or ("lts61", "el6")))
    request = Request(loaded, replace(Settings(), **settings), TimeOfDay.parse("03:07"), options or {})
    [(name, text)] = KINDS[kind]().files(request).items()
    assert name == NAMES[kind]
    return text


def parsed(kind: str, *lines: str, **given: Any) -> Any:
    return YAML(typ="safe").load(rendered(kind, *lines, **given))


def shell_lines(kind: str, whole: Any) -> list[str]:
    """What the service gives to a shell, in order."""
    if kind == "github":
        return [step["run"] for step in whole["jobs"]["nightly"]["steps"] if "run" in step]
    return list(whole["lvs-fullnat-nightly"]["script"])


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_file_is_valid_by_the_schema_of_its_service(kind: str, tmp_path: Path) -> None:
    def check(text: str) -> int:
        (tmp_path / "file.yml").write_text(text)
        words = [str(BIN / "check-jsonschema"), "--builtin-schema", SCHEMAS[kind], str(tmp_path / "file.yml")]
        return process.run(words, accept=(0, 1)).status

    text = rendered(kind)
    assert check(text) == 0
    assert check(text.replace("runs-on:", "run-on:").replace("  script:", "  scripts:")) == 1


def test_an_auditor_of_workflows_finds_nothing(tmp_path: Path) -> None:
    def audit(text: str) -> process.Result:
        (tmp_path / "nightly.yml").write_text(text)
        words = [str(BIN / "zizmor"), "--offline", "--persona=pedantic", "--no-config", str(tmp_path / "nightly.yml")]
        return process.run(words, accept=range(256))

    whole = audit(rendered("github"))
    assert whole.status == 0, whole.text + whole.error_text
    assert audit(rendered("github").replace("persist-credentials: false", "fetch-depth: 1")).status != 0


def test_the_workflow_may_read_the_repository_and_nothing_else() -> None:
    whole = parsed("github")
    assert whole["permissions"] == {}
    job = whole["jobs"]["nightly"]
    assert job["permissions"] == {"contents": "read"}
    used = [step["uses"].partition("@") for step in job["steps"] if "uses" in step]
    assert all(len(commit) == 40 and owner.startswith("actions/") for owner, _, commit in used)


def test_both_begin_at_the_time_in_utc_and_by_hand() -> None:
    whole = parsed("github")
    triggers = whole["on"] if "on" in whole else whole[True]  # YAML 1.1 takes the key for a truth value
    assert triggers == {"schedule": [{"cron": "7 3 * * *"}], "workflow_dispatch": None}
    assert "#     7 3 * * * (UTC)" in rendered("gitlab").splitlines()
    rules = parsed("gitlab")["lvs-fullnat-nightly"]["rules"]
    assert [rule["if"].split('"')[1] for rule in rules] == ["schedule", "web"]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_sources_and_compiler_caches_are_kept_and_no_key_is(kind: str) -> None:
    whole = parsed(kind)
    if kind == "github":
        steps = {step["name"]: step for step in whole["jobs"]["nightly"]["steps"]}
        paths = [steps[f"{verb} sources and compiler caches"]["with"]["path"].split() for verb in ("Restore", "Save")]
    else:
        paths = [[path.rstrip("/") for path in whole["lvs-fullnat-nightly"]["cache"]["paths"]]]
    assert all(each == ["artifacts/store", "artifacts/ccache"] for each in paths)


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"artifacts": Path("/srv/x")}, "--artifacts: /srv/x; expected none here"),
        ({"module_key": Path("/root/module.key")}, "/root/module.key: a place of this host"),
        ({"gpg_key": "../release.asc"}, "../release.asc: a place of this host"),
        ({"mirror": ("https://example.com/x", "file:///srv/m")}, "/srv/m: a place of this host"),
        ({"notify_command": "/opt/notify --to ops"}, "/opt/notify: a place of this host"),
        ({"baseurl": "https://x/${{ secrets.X }}"}, "expected no expression of the service"),
        ({"options": {"runner": "a: b"}}, "expected a runner's label"),
    ],
)
def test_what_another_host_would_not_have_is_refused(kind: str, given: Mapping[str, Any], what: str) -> None:
    with pytest.raises(UsageError) as caught:
        rendered(kind, **given)
    assert what in caught.value.what


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[str], process.Result]]:
    """Runs text as the services do, in a checkout that has the quick line among its lines."""
    with Workshop.opened(builder_images()) as shop:
        checkout = make_checkout(shop.place / "checkout", shop.line.file)
        (checkout / "artifacts").mkdir()
        (checkout / "artifacts/images").symlink_to(builder_images())
        # As a variable of a project would.
        env = shop.inv.environment(FNAT_DEBIAN_MIRROR=shop.line.server.url("/debian"))

        def command(text: str) -> process.Result:
            words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text]
            return process.run(words, cwd=checkout, env=env, accept=range(256))

        yield command


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_command_of_the_file_runs(kind: str, run: Callable[[str], process.Result]) -> None:
    made = run(f"./inv ci {kind} quick --output out")
    assert f"out/{NAMES[kind]}" in made.text, made.error_text
    commands = shell_lines(kind, YAML(typ="safe").load(run(f"cat out/{NAMES[kind]}").text))
    assert [text.split()[0] for text in commands] == ["./inv"]
    for text in commands:
        ended = run(text)
        assert ended.status == ExitCode.BUILD, "the quick line has tools and no kernel"
        assert "quick red" in ended.text
    assert run("ls artifacts/steps/quick/ipvsadm/*/out/rpms artifacts/nights/*/junit.xml").text


def test_lines_follow_each_other_and_both_services_run_the_same() -> None:
    both = [[text.strip() for text in shell_lines(kind, parsed(kind, "lts61", "el6"))] for kind in SCHEMAS]
    assert both[0] == both[1]
    assert both[0] == ["./inv nightly lts61 el6"]
