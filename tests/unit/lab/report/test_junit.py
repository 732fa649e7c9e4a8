"""A run as JUnit XML: a case for each check, finding and end, with times and names."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st

from pipeline.lab.report import junit, results
from pipeline.lab.report.results import Check, Report, RunState, State
from tests.fixtures import labruns


def suites(run: Report) -> dict[str, ElementTree.Element]:
    root = ElementTree.fromstring(junit.document(results.neutralized(run)))
    return {suite.attrib["name"]: suite for suite in root.findall("testsuite")}


def counts(suite: ElementTree.Element) -> dict[str, int]:
    return {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}


def test_junit_has_a_case_for_each_check_and_counts_them() -> None:
    found = suites(labruns.report())
    assert counts(found["boot"]) == {"tests": 1, "failures": 0, "errors": 0, "skipped": 0}
    assert counts(found["fullnat"]) == {"tests": 3, "failures": 1, "errors": 0, "skipped": 0}
    assert counts(found["keepalived"]) == {"tests": 2, "failures": 1, "errors": 1, "skipped": 0}
    assert counts(found["tun"]) == {"tests": 1, "failures": 0, "errors": 0, "skipped": 1}
    assert found["fullnat"].attrib["timestamp"].startswith("2026-") and float(found["fullnat"].attrib["time"]) == 21.4


def test_junit_says_why_something_failed_or_was_left_out() -> None:
    found = suites(labruns.report())
    failure = found["fullnat"].find(".//failure")
    assert failure is not None and failure.text
    assert "expected: 192.168.192.1:40112\ngot: 192.168.1.1:5001\ngrep toa" in failure.text
    skipped = found["tun"].find(".//skipped")
    assert skipped is not None and skipped.attrib["message"] == labruns.left_out().why
    traced = found["keepalived"].find(".//failure")
    assert traced is not None and labruns.TRACE in (traced.text or "")
    error = found["keepalived"].find(".//error")
    assert error is not None and error.attrib["message"] == labruns.broken().why


def test_no_scenario_that_ran_is_without_a_case() -> None:
    bare = labruns.passed().model_copy(update={"checks": ()})
    failed = bare.model_copy(update={"name": "other", "state": State.FAILED, "why": "it did not end"})
    found = suites(labruns.report(bare, failed))
    assert counts(found["boot"]) == {"tests": 1, "failures": 0, "errors": 0, "skipped": 0}
    assert counts(found["other"]) == {"tests": 1, "failures": 1, "errors": 0, "skipped": 0}


def test_each_junit_case_has_its_own_time_and_the_suite_that_of_the_scenario() -> None:
    checks = tuple(
        Check(name=f"check {number}", expected="x", found="x", passed=True, seconds=0.5 * number) for number in (1, 2)
    )
    suite = suites(labruns.report(labruns.fullnat(checks=checks, state=State.PASSED)))["fullnat"]
    assert [float(case.attrib["time"]) for case in suite.findall("testcase")] == [0.5, 1.0]
    assert float(suite.attrib["time"]) == 21.4
    broken = suites(labruns.report(labruns.broken().model_copy(update={"guests": ()})))["keepalived"]
    assert [float(case.attrib["time"]) for case in broken.findall("testcase")] == [6.0], "no check has it"


@given(st.lists(st.sampled_from(["start", "start (2)", "start (3)", "stop"]), max_size=8))
def test_no_two_junit_cases_have_one_name(names: list[str]) -> None:
    checks = tuple(Check(name=name, expected="x", found="x", passed=True) for name in names)
    cases = suites(labruns.report(labruns.fullnat(checks=checks)))["fullnat"].findall("testcase")
    found = [(case.attrib["classname"], case.attrib["name"]) for case in cases]
    assert len(set(found)) == len(found) >= len(names)


def test_a_run_without_an_end_is_an_error_whatever_passed() -> None:
    for state in (RunState.RUNNING, RunState.INTERRUPTED):
        found = suites(labruns.report(labruns.passed(), state=state, why="stopped"))
        assert counts(found["run"]) == {"tests": 1, "failures": 0, "errors": 1, "skipped": 0}
    assert set(suites(labruns.report(labruns.passed()))) == {"boot"}
