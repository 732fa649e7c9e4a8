"""What an audit says of the line of a snapshot, before any package is read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.audit.findings import Findings, Result
from pipeline.audit.policy import Policy, PolicyFile
from pipeline.audit.role_checks import _check_line
from tests.fixtures.damaged import SNAPSHOT

NOTICE = "not the line el6: el6-own.toml overrides sources.kernel-srpm.signers"


def rows(policy: PolicyFile, *, small: bool = False, notice: str = "") -> dict[str, tuple[Result, str]]:
    findings = Findings()
    _check_line(replace(SNAPSHOT, line="el6-own", small=small, notice=notice, sets={}), policy, findings)
    return {row.subject: (row.result, row.reason) for row in findings.rows}


WITHOUT = PolicyFile(Policy(schema=1))
ACCEPTS = PolicyFile(Policy.model_validate({"schema": 1, "lines": {"el6-own": {}}}), "policy.toml", "a" * 64)


@pytest.mark.parametrize("policy", [WITHOUT, ACCEPTS])
def test_small_kernels_are_warned_of_whatever_a_policy_accepts(policy: PolicyFile) -> None:
    assert rows(policy, small=True)["small kernels"][0] is Result.WARN
    assert "small kernels" not in rows(policy)


def test_what_an_override_changes_is_told_with_its_line() -> None:
    assert rows(ACCEPTS, notice=NOTICE)["el6-own"] == (Result.PASS, f"accepted by the policy; {NOTICE}")
    assert rows(WITHOUT, notice=NOTICE)["el6-own"][1].endswith(f"; {NOTICE}")
    assert rows(ACCEPTS)["el6-own"] == (Result.PASS, "accepted by the policy")
