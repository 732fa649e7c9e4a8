"""The secrets of a cluster on this host: whole or not there, for their owner alone, and never ones to guess."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from pipeline.ci.cluster import Cluster
from pipeline.errors import Refused


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path / "cluster", tmp_path / "artifacts")


def prepare(cluster: Cluster) -> None:
    cluster.prepare(1, 1024, 50)


def test_secrets_are_for_their_owner_alone_and_stay_as_they_are(cluster: Cluster) -> None:
    prepare(cluster)
    files = [cluster.master / "secrets" / name for name in ("operator", "worker-1")]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    found = [cluster.secret(file.name) for file in files]
    prepare(cluster)
    assert [cluster.secret(file.name) for file in files] == found


def test_a_run_that_ends_while_it_makes_a_secret_leaves_none(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(secrets, "token_hex", end)
        prepare(cluster)
    assert list((cluster.master / "secrets").iterdir()) == []
    prepare(cluster)
    assert len(cluster.secret("worker-1")) == 48


@pytest.mark.parametrize("text", ["", "\n", "0123456789abcdef\n"])
def test_a_secret_that_can_be_guessed_is_refused_wherever_it_is_read(cluster: Cluster, text: str) -> None:
    prepare(cluster)
    file = cluster.master / "secrets" / "operator"
    file.write_text(text)
    for read in (lambda: cluster.secret("operator"), lambda: prepare(cluster)):
        with pytest.raises(Refused, match=r"the secret of operator: \d+ characters; expected 32 or more") as refused:
            read()
        assert refused.value.hint == f"rm {file}"
    file.unlink()
    with pytest.raises(Refused, match="the secret of operator: missing"):
        cluster.secret("operator")
