"""Release keys that have expired or were revoked since they signed: an audit says what clients do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.audit import audit, freshness, policy, release_key
from pipeline.audit.audit import Standing
from pipeline.audit.findings import Finding, Result
from pipeline.audit.reproduction import StatedBuild
from pipeline.errors import Refused
from pipeline.publish import keys
from tests.component.commands.test_build import Bench
from tests.fixtures.agedkeys import AgedKey
from tests.fixtures.audits import examined
from tests.fixtures.rpms import person


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    made.build_all(gpg_key=str(person("short-lived", expires="2d").secret))
    return made


def finding(bench: Bench, standing: Standing) -> Finding:
    rows = audit.examine(bench.latest, policy.load(None), standing).audit.findings
    [found] = [row for row in rows if row.check == release_key.CHECK]
    return found


@pytest.mark.parametrize("standing", Standing)
def test_a_key_that_has_expired_since_fails_the_audit(
    bench: Bench, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = finding(bench, standing)
    assert (found.result, found.reason[:14]) == (Result.PASS, "valid until 20")
    later = time.time() + 3 * freshness.DAY
    monkeypatch.setattr("pipeline.audit.release_key.time.time", lambda: later)
    found = finding(bench, standing)
    assert (found.result, found.reason[:16]) == (Result.FAIL, "it expired on 20") and "clients refuse" in found.reason


def test_a_key_without_an_end_is_good(tmp_path: Path) -> None:
    made = Bench(tmp_path)
    made.build_all()
    assert finding(made, Standing.LATEST).reason == "it does not expire"


@pytest.mark.parametrize("reason", ["superseded", "compromised"])
def test_a_revoked_key_is_refused_whatever_the_reason(tmp_path: Path, reason: str) -> None:
    key = AgedKey.made(tmp_path / "k", at=2020)
    assert release_key.problem(keys.public_key("k", key.fingerprint, key.public)) == ""
    key.revoke(reason, at=2022)
    said = release_key.problem(keys.public_key("k", key.fingerprint, key.public))
    assert said == f"it was revoked on 2022-01-01: {reason}: clients refuse metadata"


def test_what_an_expired_key_signed_is_still_reproduced() -> None:
    row = Finding(release_key.CHECK, "A" * 40, Result.FAIL, "it expired")
    assert StatedBuild.of(examined(row, told=True)).steps
    with pytest.raises(Refused, match="its audit failed"):
        StatedBuild.of(examined(row, Finding("files", "x", Result.FAIL, "changed"), told=True))
