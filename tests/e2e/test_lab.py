"""The lab on what the build command published: every scenario of lts61, its results, and what is refused."""

from __future__ import annotations

import html
import json
import os
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import process
from pipeline.core.locks import locked
from pipeline.errors import ExitCode
from pipeline.lab.scenarios import NAMES
from tests.e2e.test_build_all import DIRECTORY, LOCK, Built, built
from tests.fixtures.commandline import HEARING, Inv

__all__ = ["built"]  # a fixture

pytestmark = pytest.mark.timeout(600, func_only=True)  # a fixture compiles for longer, with a limit of its own
WRONG = DIRECTORY.replace("lts61", "wrong")


@pytest.fixture(scope="module")
def results(built: Built) -> Path:
    """Where the results of the build's own run of the lab are."""
    return built.artifacts / "reports/lab" / DIRECTORY / "passed"


def test_the_build_ends_with_every_scenario(built: Built, results: Path) -> None:
    report = json.loads((results / "report.json").read_text())
    assert {scenario["name"]: scenario["state"] for scenario in report["scenarios"]} == dict.fromkeys(NAMES, "passed")
    assert report["snapshot"] in str(built.latest)


def test_junit_has_each_check(results: Path) -> None:
    report = json.loads((results / "report.json").read_text())
    cases = list(ET.parse(results / "junit.xml").iter("testcase"))
    checks = [check for scenario in report["scenarios"] for check in scenario["checks"]]
    assert len(cases) >= len(checks) > 50
    assert not list(ET.parse(results / "junit.xml").iter("failure"))


def test_the_page_shows_the_ladder_of_tunnels(results: Path) -> None:
    report = json.loads((results / "report.json").read_text())
    (tun,) = (scenario for scenario in report["scenarios"] if scenario["name"] == "tun")
    tunnelled = [packet["text"] for packet in tun["sequence"] if packet["text"].startswith("ipip 172.16.16.2 > ")]
    page = (results / "report.html").read_text()
    assert tunnelled and all(html.escape(text) in page for text in tunnelled)


@pytest.fixture
def published(built: Built) -> Iterator[Built]:
    """The same, which nobody takes away meanwhile."""
    with locked(LOCK, shared=True):
        yield built


def test_one_scenario_alone_is_a_report_of_its_own(published: Built) -> None:
    told = published.inv("smoke", *line(published), "--scenario", "boot", "--json", expect=ExitCode.OK).json
    assert [scenario["name"] for scenario in told["scenarios"]] == ["boot"]


@pytest.fixture
def wrong(published: Built, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """A line that gives FULLNAT a stock director, over what was published."""
    file = tmp_path / "wrong.toml"
    parts = "".join(f'{part} = "stock"\n' for part in ("director", "server", "client"))
    file.write_text(f'schema = 1\nextends = "lts61"\nname = "wrong"\n[lab.fullnat]\n{parts}')
    repository = published.latest.parents[1].with_name(WRONG)
    repository.symlink_to(DIRECTORY)
    signer = json.loads((repository / "latest/snapshot.json").read_text())["key"]["fingerprint"]
    yield "--line-file", str(file), "--artifacts", str(published.artifacts), "--gpg-key", signer
    repository.unlink()


def test_a_stock_director_turns_fullnat_red_with_the_reason(published: Built, wrong: tuple[str, ...]) -> None:
    ended = published.inv("smoke", *wrong, "--scenario", "fullnat", expect=ExitCode.TEST)
    assert "has no FULLNAT, kmod-lvs-fullnat does" in ended.out
    junit = ET.parse(published.artifacts / "reports/lab" / WRONG / "latest/junit.xml")
    assert "has no FULLNAT" in "".join(error.get("message", "") for error in junit.iter("error"))


@contextmanager
def begun(published: Built, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of the lab whose first guests answer, the switches too; it reads what is written to it."""
    argv = [*HEARING, *published.inv.argv(*words, *line(published))]
    environment = published.inv.environment()
    with process.start(argv, env=environment, cwd=published.inv.cwd, stdin=subprocess.PIPE) as running:
        assert running.stderr is not None
        for text in running.stderr:
            if b"is ready after" in text:
                break
        yield running


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_lab_that_is_stopped_leaves_nothing_that_runs(published: Built, number: int, status: int) -> None:
    with begun(published, "smoke", "--scenario", "keepalived") as smoke:  # it goes on for half a minute
        assert len(published.inv.living(0)) > 5
        os.kill(smoke.pid, number)
        assert smoke.wait(30) == status
        assert published.inv.living() == []
    told = published.inv("status", "--json", "--artifacts", published.artifacts).json
    assert told["lab"][DIRECTORY]["state"] == "interrupted"


def test_a_kernel_that_panics_ends_its_scenario_with_the_trace(published: Built) -> None:
    with begun(published, "lab", "--scenario", "boot") as lab:
        assert lab.stdin is not None and lab.stdout is not None
        os.write(lab.stdin.fileno(), b"stock\n")
        while not os.read(lab.stdout.fileno(), 1000).endswith(b"# "):  # the shell's prompt
            assert lab.poll() is None
        os.write(lab.stdin.fileno(), b"echo c > /proc/sysrq-trigger\n")
        assert lab.wait(60) == ExitCode.TEST
    report = json.loads((published.artifacts / "reports/lab" / DIRECTORY / "latest/report.json").read_text())
    (boot,) = report["scenarios"]
    assert boot["state"] == "failed" and "panic, the kernel gave up: " in boot["why"]
    (stock,) = (guest for guest in boot["guests"] if guest["name"] == "stock")
    assert "Call Trace:" in stock["findings"][0]["trace"]


def line(published: Built) -> tuple[str, ...]:
    return "--line", "lts61", "--artifacts", str(published.artifacts)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("smoke", "--scenario", "natt"), "scenario 'natt': not found; did you mean nat?"),
        (("lab",), "--scenario: expected one scenario, got none"),
        (("smoke", "--line", "lts61"), "there is no repository to boot from"),
    ],
)
def test_what_cannot_be_played_is_refused_with_the_next_command(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    ended: Any = Inv(tmp_path)(*words, expect=ExitCode.USAGE)
    assert said in ended.err and "next: ./inv" in ended.err
