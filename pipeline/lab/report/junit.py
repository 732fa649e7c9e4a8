"""Write a run as JUnit XML: a suite for each scenario, a case for each check and each finding."""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING

from pipeline.lab.report.results import Check, Finding, Guest, Report, RunState, Scenario, State

if TYPE_CHECKING:
    from junitparser import TestCase, TestSuite


def document(report: Report) -> bytes:
    """Return the XML. The texts of `report` must be neutral: XML allows no control characters."""
    from junitparser import JUnitXml

    xml = JUnitXml(f"lab {report.line}")
    for scenario in report.scenarios:
        xml.add_testsuite(_suite(report.line, scenario))
    if report.state in (RunState.RUNNING, RunState.INTERRUPTED):
        xml.add_testsuite(_unfinished(report))
    stream = io.BytesIO()
    xml.write(stream)
    return stream.getvalue()


def _suite(line: str, scenario: Scenario) -> TestSuite:
    from datetime import UTC, datetime

    from junitparser import TestSuite

    suite = TestSuite(scenario.name)
    if scenario.started:
        suite.timestamp = datetime.fromtimestamp(scenario.started, UTC).isoformat(timespec="seconds")
    taken: set[str] = set()
    for case in (*_checks(scenario), *_findings(scenario), *_outcome(scenario)):
        case.classname = f"lab.{line}.{scenario.name}"
        numbered = (f"{case.name} ({number})" for number in itertools.count(2))
        case.name = next(name for name in itertools.chain((case.name,), numbered) if name not in taken)
        taken.add(case.name)
        suite.add_testcase(case)
    suite.time = scenario.seconds  # guests boot before the first check
    return suite


def _unfinished(report: Report) -> TestSuite:
    """Return the suite of a run without an end: an error, so that no reader takes what there is for the whole."""
    from junitparser import Error, TestCase, TestSuite

    suite, case = TestSuite("run"), TestCase("the run comes to its end", classname=f"lab.{report.line}")
    case.result = [Error(f"{report.state}: {report.why}" if report.why else report.state.value, "run")]
    suite.add_testcase(case)
    return suite


def _checks(scenario: Scenario) -> list[TestCase]:
    return [_check(check) for check in scenario.checks]


def _check(check: Check) -> TestCase:
    from junitparser import Failure, TestCase

    case = TestCase(check.name, time=check.seconds)
    text = f"expected: {check.expected}\ngot: {check.found}"
    if check.passed:
        case.system_out = text
        return case
    failure = Failure(f"expected {check.expected}, got {check.found}", "check")
    failure.text = f"{text}\n{check.hint}" if check.hint else text
    case.result = [failure]
    return case


def _findings(scenario: Scenario) -> list[TestCase]:
    return [_finding(guest, finding) for guest in scenario.guests for finding in guest.findings]


def _finding(guest: Guest, finding: Finding) -> TestCase:
    from junitparser import Failure, TestCase

    case = TestCase(f"console of {guest.name}: {finding.kind} in line {finding.line}")
    failure = Failure(f"{finding.kind}: {finding.meaning}", "console")
    failure.text = f"{finding.look}\n\n{finding.trace}"
    case.result = [failure]
    return case


def _outcome(scenario: Scenario) -> list[TestCase]:
    """Return a case for the scenario's end, where no check and no finding reports one."""
    from junitparser import Error, Failure, Skipped, TestCase

    case = TestCase(scenario.title or scenario.name, time=None if scenario.checks else scenario.seconds)
    reported = any(not check.passed for check in scenario.checks) or any(guest.findings for guest in scenario.guests)
    if scenario.state is State.LEFT_OUT:
        case.result = [Skipped(scenario.why)]
    elif scenario.state is State.BROKEN:
        case.result = [Error(scenario.why, "scenario")]
    elif scenario.state is State.FAILED and not reported:
        case.result = [Failure(scenario.why, "scenario")]
    elif scenario.checks or reported:
        return []
    return [case]
