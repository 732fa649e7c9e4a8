"""`inv status --verify` reads everything that was made, and tells what is not as it was made."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core import fs, manifest
from pipeline.errors import ExitCode
from tests.component.commands.test_build import Bench
from tests.component.packaging.test_damage import behind_the_stamps, exchanged, flipped, package, put
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import shared_keys

BLOB = hashlib.sha256(b"a source").hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Inv:
    """A line that was built and published, a source, and a builder image."""
    inv = Inv(tmp_path_factory.mktemp("whole"))
    bench = Bench(inv.artifacts.parent)
    shutil.copytree(shared_keys(), bench.artifacts / "keys", symlinks=True)
    bench.build_all()
    blob, image = inv.artifacts / "store/sha256" / BLOB[:2] / BLOB, inv.artifacts / "images/debian12/0123"
    for path, text in ((blob, "a source"), (image / "rootfs/bin/gcc", "gcc"), (image / "packages.json", "{}")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    manifest.record(image, {"image": "debian12", "key": "0123"})
    return inv


@pytest.fixture
def inv(whole: Inv, tmp_path: Path) -> Inv:
    """A copy that a test may damage."""
    inv = Inv(tmp_path)
    shutil.copytree(whole.artifacts, inv.artifacts, symlinks=True)
    return inv


def test_where_everything_is_as_it_was_made_that_is_said(inv: Inv) -> None:
    assert "everything that was made is as it was made" in inv("status", "--verify").out
    assert inv("status", "--verify", "lts61", "--json").json["differing"] == []
    assert "there is no" not in inv("status").out


def spoilt(pattern: str) -> Callable[[Path], Path]:
    """Flips a bit of one file; where it is."""

    def change(artifacts: Path) -> Path:
        [path] = artifacts.glob(pattern)
        put(path, flipped(path.read_bytes()))
        return path

    return change


def unseen(artifacts: Path) -> Path:
    """A package whose bytes changed although no stamp of the copy did."""
    [path] = artifacts.glob("steps/lts61/ipvsadm/[!.]*/out/rpms/*.rpm")
    behind_the_stamps(path, flipped(path.read_bytes()))
    return path


def signed(artifacts: Path) -> Path:
    """Another package of the snapshot that the same key has signed."""
    [snapshot] = artifacts.glob("repo/lts61/snapshots/*")
    exchanged(snapshot)
    return snapshot


def led_elsewhere(artifacts: Path) -> Path:
    """The link to the latest snapshot, to none."""
    fs.replace_symlink(artifacts / "repo/lts61/latest", "snapshots/none")
    return artifacts / "repo/lts61/latest"


DAMAGES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "step output": (unseen, "out/rpms/ipvsadm-1.2.1-fnat.0.noarch.rpm: SHA-256 ", "./inv build-all --verify --line"),
    "step record": (spoilt("steps/lts61/kernel-stock/*/meta.json"), "its record is damaged", "./inv build-all"),
    "snapshot": (spoilt("repo/lts61/snapshots/*/README"), "SHA256SUMS", "./inv build-all --verify --line lts61"),
    "signed package": (signed, "SHA256SUMS", "./inv build-all --verify --line lts61"),
    "latest": (led_elsewhere, "it leads to no snapshot", "./inv build-all --verify --line lts61"),
    "source": (spoilt(f"store/sha256/*/{BLOB}"), f"expected {BLOB}", "./inv store verify"),
    "image": (spoilt("images/debian12/0123/rootfs/bin/gcc"), "SHA-256 ", "./inv image --image debian12 --fresh"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_differs_is_named_with_the_next_command_and_ends_with_4(inv: Inv, what: str) -> None:
    damage, problem, following = DAMAGES[what]
    path = damage(inv.artifacts)
    [row] = inv("status", "--verify", "--json", expect=ExitCode.REFUSED).json["differing"]
    assert row.keys() == {"kind", "path", "problem", "next"}
    assert str(path.relative_to(inv.artifacts.parent)).startswith(row["path"])
    assert problem in row["problem"] and row["next"].startswith(following)
    assert f"next: {row['next']}" in inv("status", "--verify", expect=ExitCode.REFUSED).out
    inv("status")


def test_a_line_of_which_nothing_is_there_is_a_mistake(inv: Inv) -> None:
    ended = inv("status", "--verify", "el7", expect=ExitCode.USAGE)
    assert "known: lts61" in ended.err


def test_a_build_that_reads_everything_finds_what_no_stamp_tells(inv: Inv) -> None:
    bench = Bench(inv.artifacts.parent)
    assert bench.build_all()["snapshot"]["path"].startswith(str(inv.artifacts)), "the copy has its own"
    path = package(bench, "keepalived")
    behind_the_stamps(path, flipped(path.read_bytes()))
    assert bench.build_all()["steps"]["keepalived"]["state"] == "reused"
    assert bench.build_all(verify=True)["steps"]["keepalived"]["state"] == "ran"
