"""Write a night as JUnit XML: a suite for each line, a case for each source that changed, step and phase."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.core import neutral
from pipeline.nights.record import LineNight, Night, Phase, Upstream, Verdict

if TYPE_CHECKING:
    from junitparser import TestCase, TestSuite


def document(night: Night) -> bytes:
    """Return the XML."""
    from datetime import UTC, datetime

    from junitparser import JUnitXml

    xml = JUnitXml(f"night {night.number}")
    for line in night.lines:
        suite = _suite(line)
        suite.timestamp = datetime.fromtimestamp(night.begun, UTC).isoformat(timespec="seconds")
        xml.add_testsuite(suite)
    stream = io.BytesIO()
    xml.write(stream)
    return stream.getvalue()


def _suite(line: LineNight) -> TestSuite:
    from junitparser import TestSuite

    suite = TestSuite(line.directory)
    for case in (*_upstream(line), *_steps(line), *_phases(line)):
        case.classname = f"night.{line.directory}"
        suite.add_testcase(case)
    suite.time = sum(line.seconds.values())
    return suite


def _case(name: str, seconds: float, *results: Any) -> TestCase:
    from junitparser import TestCase

    case = TestCase(neutral.line(name), time=seconds)
    case.result = list(results)
    return case


def _upstream(line: LineNight) -> Iterator[TestCase]:
    from junitparser import Error, Failure

    for source in line.upstream:
        results: list[Any] = []
        if source.state is Upstream.ALARM:
            results = [Failure(neutral.line(source.text), "alarm")]
        elif source.state is Upstream.UNREACHABLE:
            results = [Error(neutral.line(source.text), "unreachable")]
        case = _case(f"upstream of {source.source}", 0.0, *results)
        if not results:
            case.system_out = neutral.line(f"{source.state}: {source.text}")
        yield case


def _steps(line: LineNight) -> Iterator[TestCase]:
    from junitparser import Failure, Skipped

    failure = line.failure
    for name, step in line.steps.items():
        results: list[Any] = []
        if failure and failure.step == name:
            results = [Failure(neutral.line(failure.error), "step")]
        elif step.state in ("failed", "blocked"):
            results = [Skipped(neutral.line(step.why)) if step.state == "blocked" else Failure("failed", "step")]
        yield _case(f"step {name}", step.seconds, *results)


def _phases(line: LineNight) -> Iterator[TestCase]:
    """Yield a case for each phase that took place, and for one that a kill ended."""
    from junitparser import Error, Failure

    failure = line.failure
    for phase in Phase:
        if phase not in line.seconds and not (failure and failure.phase is phase):
            continue
        results = []
        if failure and failure.phase is phase and not failure.step:
            results = [Failure(neutral.line(failure.error), str(phase))]
        yield _case(str(phase), line.seconds.get(phase, 0.0), *results)
    if line.verdict in (Verdict.KILLED, Verdict.RUNNING):
        yield _case("the night comes to its end", 0.0, Error(f"{line.verdict} in {line.phase}", "night"))
