"""The audit's command line: a snapshot that is not there, and a policy with mistakes."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ExitCode
from tests.fixtures.commandline import Inv


def test_a_snapshot_that_is_not_there_is_a_mistake_of_the_command_line(inv: Inv) -> None:
    done = inv("audit", "toi", expect=ExitCode.USAGE)
    assert "got no id, path or latest" in done.err
    done = inv("audit", inv.home, expect=ExitCode.USAGE)
    assert "no snapshot; expected a directory with snapshot.json" in done.err


def test_every_mistake_of_a_policy_is_told_with_its_line(inv: Inv, tmp_path: Path) -> None:
    rules = tmp_path / "policy.toml"
    rules.write_text('schema = 1\n[keys]\nrelease = ["abc"]\n[freshness]\nmost-days = 0\n[lines.toy]\nrole = []\n')
    done = inv("audit", inv.home, "--policy", rules, expect=ExitCode.USAGE)
    for number in (3, 5, 7):
        assert f"policy.toml:{number}: " in done.err


def test_a_summary_needs_the_policy_that_it_states(inv: Inv, tmp_path: Path) -> None:
    words = ("audit", inv.home, "--vsa", tmp_path / "vsa.json", "--vsa-key", tmp_path / "key.pem")
    done = inv(*words, expect=ExitCode.USAGE)
    assert "--vsa: a summary states the policy that decided; expected --policy FILE" in done.err
    assert not (tmp_path / "vsa.json").exists()
