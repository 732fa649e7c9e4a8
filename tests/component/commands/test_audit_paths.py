"""A snapshot that is audited by a path: however the path is written, the verdict is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.audit.audit import Audit
from pipeline.audit.findings import Result
from pipeline.commands.audit import audit_snapshot
from tests.component.commands.test_build import Bench

Judge = Callable[[str], Result]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench with an older snapshot and a newer one."""
    made = Bench(tmp_path_factory.mktemp("audit"))
    made.build_all()
    made.build_all(baseurl="http://other.example")
    return made


@pytest.fixture
def older(bench: Bench) -> Path:
    (found,) = (path for path in bench.latest.parent.glob("snapshots/*") if path.name != bench.latest.resolve().name)
    return found


@pytest.fixture
def judge(bench: Bench) -> Judge:
    def freshness(chosen: str) -> Result:
        options = dict.fromkeys(("policy_file", "write_policy", "html", "vsa", "vsa_key"), "")
        found = audit_snapshot(bench.job().context, chosen, **options).data
        assert isinstance(found, Audit)
        (row,) = (row for row in found.findings if row.check == "freshness")
        return row.result

    return freshness


@pytest.mark.parametrize(
    ("place", "spelling"),
    [
        ("snapshots/ID", "."),
        ("snapshots/ID", "./"),
        ("snapshots/ID/stock", ".."),
        ("snapshots/ID", "../ID"),
        ("snapshots/ID", "../ID/"),
        ("snapshots/ID", "../../snapshots/ID"),
        ("snapshots", "./ID"),
        (".", "snapshots/ID/."),
        (".", "link"),
        (".", "link/"),
        ("link", "."),
        (".", "WHOLE"),
    ],
)
def test_an_older_snapshot_fails_by_any_path(
    bench: Bench, older: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, place: str, spelling: str
) -> None:
    root = bench.latest.parent
    if not (root / "link").is_symlink():
        (root / "link").symlink_to(older)
    monkeypatch.chdir(root / place.replace("ID", older.name))
    assert judge(spelling.replace("WHOLE", str(older)).replace("ID", older.name)) is Result.FAIL


@pytest.mark.parametrize("spelling", [".", "../latest", "../snapshots/../latest/"])
def test_the_latest_passes_by_any_path(
    bench: Bench, judge: Judge, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    monkeypatch.chdir(bench.latest)
    monkeypatch.chdir("../../latest" if spelling == "." else "..")
    assert judge(spelling) is Result.PASS


def test_who_names_an_older_one_by_its_id_means_that_one(older: Path, judge: Judge, bench: Bench) -> None:
    assert judge(older.name) is Result.WARN
    assert judge(older.name[:8]) is Result.WARN
    for latest in ("lts61", "lts61/latest", bench.latest.resolve().name):
        assert judge(latest) is Result.PASS
