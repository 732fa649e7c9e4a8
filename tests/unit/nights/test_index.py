"""The page of all nights: complete without script, safe with strangers' text, and the entries for programs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

from junitparser import JUnitXml

from pipeline.nights import index, junit, record
from pipeline.nights.record import LineNight, NightStep, Phase, SourceState, Upstream, Verdict
from tests.unit.nights.test_record import line, night, written

HOSTILE = "<script>alert(1)</script>\x1b[31m & \x00"


def test_the_page_tells_verdicts_changes_failures_and_since_when(tmp_path: Path) -> None:
    nights = record.root(tmp_path)
    update = SourceState("linux", Upstream.UPDATE, "6.1.1-1", "6.1.2-1", "", "6.1.1-1 -> 6.1.2-1")
    green = replace(line(Verdict.GREEN, "a" * 32, released=True), seconds={"build": 61.0}, packages=3, bytes=4096)
    written(nights, night(1, green), night(2, replace(green, upstream=(update,))), night(3, line(Verdict.RED)))
    text = index.write(nights).read_text()
    for expected in ("linux: update available: 6.1.1-1 -&gt; 6.1.2-1", "Broken since night 3, 1970-01-04", "a" * 32):
        assert expected in text
    assert "at most 1 min 1 s, of 3 nights" in text and "4.0 KiB" in text and "step ipvsadm" in text
    assert text.count("<rect") == 6 and "<script" not in text and "http" not in text.replace("http-equiv", "")
    entries = json.loads((nights / record.INDEX_JSON).read_text())["nights"]
    assert [entry["night"] for entry in entries] == [3, 2, 1]
    assert entries[1]["lines"]["lts61"] == {
        "verdict": "green", "snapshot": "a" * 32, "released": True, "failure": None,
    }  # fmt: skip


def hostile() -> LineNight:
    red = line(Verdict.RED)
    assert red.failure is not None
    steps = {HOSTILE: NightStep("ran", HOSTILE, 1.0, "k")}
    state = SourceState(HOSTILE, Upstream.ALARM, "", "", "", HOSTILE)
    return replace(red, steps=steps, failure=replace(red.failure, step="", error=HOSTILE), upstream=(state,))


def test_text_of_strangers_stays_text(tmp_path: Path) -> None:
    text = index.render([night(1, hostile())])
    assert "<script" not in text and "\x1b" not in text and "\x00" not in text and "&lt;script&gt;" in text


def test_what_a_compiler_printed_stands_as_it_was_printed(tmp_path: Path) -> None:
    red = line(Verdict.RED)
    assert red.failure is not None
    error = "ipvsadm failed\n    a.c:1:5: error: no\n        |  ^~~"
    text = index.render([night(1, replace(red, failure=replace(red.failure, error=error)))])
    assert ">    a.c:1:5: error: no\n        |  ^~~</pre>" in text and "last no packages" in text


def test_junit_is_well_formed_and_has_every_failure() -> None:
    written_xml = junit.document(night(1, hostile()))
    assert ET.fromstring(written_xml).tag == "testsuites"
    (suite,) = JUnitXml.fromstring(written_xml)
    assert {case.name for case in suite if case.result} >= {str(Phase.BUILD)} and suite.failures == 2


def test_a_killed_night_is_an_error_in_junit_and_told_on_the_page() -> None:
    killed = night(1, replace(line(Verdict.KILLED), phase=Phase.SMOKE))
    (suite,) = JUnitXml.fromstring(junit.document(killed))
    assert suite.errors == 1
    assert "Killed in smoke" in index.render([killed])


def test_no_night_has_a_page_too() -> None:
    assert "No night yet" in index.render([])
