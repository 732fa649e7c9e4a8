"""The page as a whole: what it says of the run, what is folded, where it leads, and runs without an end."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest

from pipeline.lab.report import page as report
from pipeline.lab.report import results
from pipeline.lab.report.results import Report, RunState, Scenario
from tests.fixtures import labruns
from tests.unit.lab.report.test_page import ATTACK, Reader, read


def links(page: Reader) -> list[str]:
    """The files that a page leads to."""
    found = [attributes.get("href") or "" for tag, attributes in page.elements if tag == "a"]
    return [unquote(address).removeprefix("./") for address in found if not address.startswith("#")]


def test_the_head_has_date_duration_host_command_and_commit() -> None:
    text = read(labruns.report()).text
    for known in (
        "2026-09-21 14:13:20 UTC",
        "1 min 15 s",
        "builder, Linux 6.1.0 x86_64, 2 processors",
        "./inv smoke --line el6 --kernel-config small",
        f"{'5f5294b0' * 5} with uncommitted changes",
        "emulated (KVM unusable: /dev/kvm is not there)",
    ):
        assert known in text
    assert f"{'5f5294b0' * 5} without changes" in read(labruns.report(dirty=False)).text
    assert "with KVM (it booted)" in read(labruns.report(accelerator="kvm", accelerator_why="it booted")).text


@pytest.mark.parametrize("dated", [labruns.report(), labruns.report(commit="", command="")])
def test_no_fact_of_the_head_is_blank(dated: Report) -> None:
    assert all(value.strip() for _, value, _ in report._facts(dated))


def test_passed_scenarios_are_folded_and_the_others_open() -> None:
    folds = [attributes for tag, attributes in read(labruns.report()).elements if tag == "details"]
    scenarios = [attributes for attributes in folds if "scenario" in (attributes.get("class") or "")]
    states = [(attributes["class"] or "").removeprefix("card scenario ") for attributes in scenarios]
    assert states == ["passed", "failed", "broken", "left-out"]
    assert ["open" in attributes for attributes in scenarios] == [False, True, True, True]


def test_the_page_leads_to_json_junit_consoles_captures_and_the_run_before() -> None:
    run = labruns.report()
    files = {"report.json", "junit.xml", run.previous}
    for scenario in run.scenarios:
        files |= {guest.console_file for guest in scenario.guests if guest.console_file} | set(
            scenario.captures.values()
        )
    assert set(links(read(run))) == files and len(files) > 8
    assert "run before" not in read(labruns.report(previous="")).text


@pytest.mark.parametrize("name", ["javascript:alert(1)", "//example.com/x", "a b#c?d", ATTACK])
def test_a_link_leads_to_a_file_beside_the_page_whatever_the_name(name: str, tmp_path: Path) -> None:
    address = report.link(name)
    assert address.startswith("./") and not set(address) & set("#?:\"' <>")
    assert unquote(address) == f"./{name}"


def test_measured_times_are_on_the_page_with_their_limits() -> None:
    assert "until director2 has the VIP3.2 s10 s" in read(labruns.report(labruns.fullnat())).text


@pytest.mark.parametrize(
    ("state", "headline", "told"),
    [
        (RunState.RUNNING, "… Running: lab of el6", "as process 4711 of builder"),
        (RunState.INTERRUPTED, "✗ Interrupted: lab of el6", "did not come to its end: stopped by a signal"),
    ],
)
@pytest.mark.parametrize("scenarios", [(), (labruns.passed(),)])
def test_a_run_without_an_end_says_so(
    state: RunState, headline: str, told: str, scenarios: tuple[Scenario, ...]
) -> None:
    run = labruns.report(labruns.passed(), state=state, why="stopped by a signal").model_copy(
        update={"scenarios": scenarios}
    )
    text = read(run).text
    assert headline in text and told in text and "✓ Passed" not in text
    assert ("so far 1 of 1 scenario passed" in text) is bool(scenarios)
    assert not run.passed


def test_a_report_that_claims_to_have_passed_is_not_believed() -> None:
    run = labruns.report(labruns.broken(), state=RunState.PASSED)
    assert not run.passed and "✗ Not passed" in read(run).text
    assert run.failed == ("keepalived",)
    assert not results.all_passed(()) and results.all_passed([labruns.passed(), labruns.left_out()])
