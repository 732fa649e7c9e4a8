"""What `build-all` reuses, signs and leaves published is what was made: anything else is found before it is used."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import shell
from pipeline.config import line_loader
from pipeline.core import fs, manifest, process
from pipeline.core.fs import sha256_of
from pipeline.errors import BuildFailed, ExitCode, Refused
from pipeline.packaging import step_record
from pipeline.packaging.graph import Work
from pipeline.publish import signing
from pipeline.publish.layout import PUBLISH
from pipeline.publish.verify import verify_snapshot
from tests.component.commands.test_build import MADE, Bench, ToyJob
from tests.fixtures.rpms import rpm, shared_keys

EVIL = "evil!!"  # as long as the good packages' text


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    """Made before any test: they are the same in all."""
    for package in (name for names in MADE.values() for name in names):
        rpm(package, text="always")
        rpm(package, text=EVIL)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A job whose repository's keys are there already."""
    bench = Bench(tmp_path)
    shutil.copytree(shared_keys(), bench.artifacts / "keys", symlinks=True)
    return bench


def package(bench: Bench, name: str) -> Path:
    """The unsigned package of a name, where its step left it."""
    [path] = bench.artifacts.glob(f"steps/lts61/*/[!.]*/out/rpms/{name}-1*.rpm")
    return path


def put(path: Path, data: bytes) -> None:
    """Other bytes in a file's place, in spite of its mode and with its times."""
    before = path.stat()
    path.parent.chmod(0o755)
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def states(said: Any) -> dict[str, str]:
    return {name: step["state"] for name, step in said["steps"].items()}


def digests(said: Any) -> dict[str, str]:
    return {row["file"]: row["sha256"] for row in said["packages"]}


# --- Steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "name"), [(step, names[-1]) for step, names in MADE.items()])
@pytest.mark.parametrize("how", ["another valid package", "a bit", "nothing"])
def test_a_package_that_its_step_did_not_make_is_never_published(bench: Bench, step: str, name: str, how: str) -> None:
    first = bench.build_all()
    good = package(bench, name).read_bytes()
    evil = {"another valid package": rpm(name, text=EVIL).read_bytes(), "a bit": flipped(good), "nothing": b""}[how]
    put(package(bench, name), evil)
    told = bench.build_all(dry_run=True)["steps"][step]
    assert told["would"] == "ran" and told["why"].startswith(f"its output was changed: out/rpms/{name}-1.2.1")
    shutil.rmtree(bench.artifacts / "repo")
    second = bench.build_all()
    assert states(second)[step] == "ran" and second["steps"][step]["why"] == told["why"]
    assert digests(second) == digests(first) and second["snapshot"]["id"] == first["snapshot"]["id"]
    assert package(bench, name).read_bytes() == good
    [kept] = bench.artifacts.glob(f"steps/lts61/{step.replace(':', '-')}/.damaged-*/out/rpms/{name}-1*.rpm")
    assert kept.read_bytes() == evil


def behind_the_stamps(path: Path, data: bytes) -> None:
    """Bytes that changed although the stamp did not, as a failing disk does it."""
    put(path, data)
    place = path.parents[2]
    made = step_record.read(place)
    name = str(path.relative_to(place / "out"))
    entry = replace(made.output[name], stamp=manifest.scan(path)[""].stamp)
    replace(made, made={**made.made, "out": {**made.output, name: entry}}).write(place)


def test_what_is_signed_is_read_whole_whatever_its_stamp_says(bench: Bench) -> None:
    first = bench.build_all()
    path, good = package(bench, "kernel"), digests(first)[package(bench, "kernel").name]
    behind_the_stamps(path, rpm("kernel", text=EVIL).read_bytes())
    shutil.rmtree(bench.artifacts / "repo")
    with pytest.raises(Refused) as refused:
        bench.build_all()
    error = refused.value
    assert error.what == f"{path.name}: not the package that was built; expected SHA-256 {good}, got {sha256_of(path)}"
    assert (error.code, bench.latest.exists()) == (ExitCode.REFUSED, False)
    assert error.hint == f"./inv build-all --force kernel:stock --line lts61 --artifacts {bench.artifacts}"
    assert bench.build_all(force=("kernel:stock",))["snapshot"]["id"] == first["snapshot"]["id"]


def test_a_package_exchanged_between_its_check_and_its_copy_is_not_signed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = fs.copy_hashed

    def exchanging(source: Path, target: Path) -> str:
        if source.name.startswith("ipvsadm"):
            put(source, rpm("ipvsadm", text=EVIL).read_bytes())
        return copied(source, target)

    monkeypatch.setattr(signing, "copy_hashed", exchanging)
    with pytest.raises(Refused, match=r"ipvsadm-1.*: not the package that was built; expected SHA-256 "):
        bench.build_all()
    assert not list(bench.artifacts.glob("repo/*/snapshots/*"))


def test_a_package_is_read_from_the_copy_that_is_signed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its copy the original no longer matters."""
    copied = fs.copy_hashed

    def exchanging(source: Path, target: Path) -> str:
        digest = copied(source, target)
        put(source, rpm(source.name.partition("-1.")[0], text=EVIL).read_bytes())
        return digest

    good = bench.build_all()["snapshot"]
    shutil.rmtree(bench.artifacts / "repo")
    monkeypatch.setattr(signing, "copy_hashed", exchanging)
    assert bench.build_all()["snapshot"]["id"] == good["id"]
    verify_snapshot(bench.latest.resolve(), good["fingerprint"])


def test_the_snapshot_says_which_step_of_which_key_made_each_package_and_of_what_digest(bench: Bench) -> None:
    said = bench.build_all()
    rows = verify_snapshot(bench.latest.resolve(), said["snapshot"]["fingerprint"]).packages
    assert {name: row.unsigned_sha256 for name, row in rows.items()} == digests(said)
    for row in rows.values():
        assert list(row.keys) == [said["steps"][step]["key"] for step in row.steps]


def test_where_nothing_was_touched_nothing_runs_and_nothing_is_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.build_all()
    read: list[object] = []
    monkeypatch.setattr(process, "run", lambda *words, **_: read.append(words))
    monkeypatch.setattr(manifest, "sha256_at", lambda path: read.append(path))
    assert set(states(bench.build_all()).values()) == {"reused"}
    assert read == []


# --- Snapshots -----------------------------------------------------------------------------------------------


def exchanged(snapshot: Path) -> None:
    """A package that the same key has signed, and that is another."""
    [path] = snapshot.glob("stock/kernel-1*.rpm")
    with signing.open_signer("", shared_keys()) as signer, tempfile.TemporaryDirectory() as place:
        [other] = signer.sign([rpm("kernel", text=EVIL)], Path(place, "other"))
        put(path, other.path.read_bytes())


def another_snapshot(snapshot: Path) -> None:
    """A whole snapshot that the same key has signed, and that holds other packages."""
    other = Bench(snapshot.parents[4] / "elsewhere")
    shutil.copytree(shared_keys(), other.artifacts / "keys", symlinks=True)
    other.kind.changing = ("kernel:stock",)
    other.build_all()
    removed(snapshot)
    shutil.copytree(other.latest.resolve(), snapshot)


def removed(path: Path) -> None:
    """A file or a snapshot, gone."""
    path.parent.chmod(0o755)
    fs.remove(path)


def file(pattern: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Changes one file of a snapshot."""

    def changing(snapshot: Path) -> None:
        [path] = snapshot.glob(pattern)
        put(path, change(path.read_bytes()))

    return changing


def added(snapshot: Path) -> None:
    """One more file in the repository's directory."""
    (snapshot / "stock").chmod(0o755)
    (snapshot / "stock" / "more.rpm").write_bytes(rpm("kernel", text=EVIL).read_bytes())


_FILES = (
    *("stock/kernel-1*.rpm", "stock/repodata/repomd.xml", "stock/repodata/repomd.xml.asc", "stock/repodata/*primary*"),
    *("README", "*-stock.repo", "RPM-GPG-KEY-*", "SHA256SUMS", "SHA256SUMS.asc", "snapshot.json"),
)
CHANGES: dict[str, Callable[[Path], None]] = {
    **{f"{name}, a bit": file(name, flipped) for name in _FILES},
    **{f"{name}, emptied": file(name, lambda _: b"") for name in _FILES},
    **{f"{name}, gone": lambda place, name=name: removed(next(place.glob(name))) for name in _FILES},  # type: ignore[misc]
    "a package exchanged": exchanged,
    "another snapshot": another_snapshot,
    "a file more": added,
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """What all the changes below are made to."""
    bench = Bench(tmp_path_factory.mktemp("published"))
    shutil.copytree(shared_keys(), bench.artifacts / "keys", symlinks=True)
    bench.build_all()
    process.run(["cp", "-a", bench.artifacts / "repo", bench.artifacts / "whole"])
    process.run(["cp", "-a", bench.artifacts / "steps", bench.artifacts / "whole-steps"])
    return bench


@pytest.fixture
def snapshot(published: Bench) -> Path:
    """The snapshot, whole again whatever the test before did to the repository."""
    for name, copy in (("repo", "whole"), ("steps", "whole-steps")):  # a record knows the statements beside a snapshot
        removed(published.artifacts / name)
        process.run(["cp", "-a", published.artifacts / copy, published.artifacts / name])
    return published.latest.resolve()


@pytest.mark.parametrize("change", CHANGES)
def test_a_snapshot_that_is_not_as_it_was_published_is_found_by_the_next_run(
    published: Bench, snapshot: Path, change: str
) -> None:
    assert set(states(published.build_all()).values()) == {"reused"}
    CHANGES[change](snapshot)
    told = published.build_all(dry_run=True)["steps"][PUBLISH]
    assert told["would"] == "ran" and told["why"].startswith(f"its output was changed: {snapshot}")
    with pytest.raises(Refused) as refused:
        published.build_all()
    assert (refused.value.code, refused.value.where) == (ExitCode.REFUSED, str(snapshot))
    assert f"rm -r {snapshot}, then run the same command again" in refused.value.hint


def test_the_command_that_a_damaged_snapshot_is_told_with_mends_it(published: Bench, snapshot: Path) -> None:
    exchanged(snapshot)
    with pytest.raises(Refused) as refused:
        published.build_all()
    process.run(["sh", "-c", refused.value.hint.partition(", then run ")[0]])
    said = published.build_all()
    assert (said["snapshot"]["id"], states(said)[PUBLISH]) == (snapshot.name, "ran")
    verify_snapshot(snapshot, said["snapshot"]["fingerprint"])


@pytest.mark.parametrize("target", ["snapshots/none", "../other/snapshots/other"])
def test_a_link_to_the_latest_snapshot_that_leads_elsewhere_is_led_back(
    published: Bench, snapshot: Path, target: str
) -> None:
    good = published.latest.readlink()
    other = published.artifacts / "repo" / "other" / "snapshots" / "other"
    shutil.copytree(snapshot, other)
    published.latest.unlink()
    published.latest.symlink_to(target)
    said = published.build_all()["steps"][PUBLISH]
    assert (said["state"], published.latest.readlink()) == ("reused", good)


def test_a_removed_snapshot_is_published_anew(published: Bench, snapshot: Path) -> None:
    removed(snapshot)
    said = published.build_all()
    assert states(said)[PUBLISH] == "ran"
    verify_snapshot(snapshot, said["snapshot"]["fingerprint"])


def test_the_command_that_builds_a_package_anew_can_be_typed(bench: Bench) -> None:
    """The words of it are those that the command line takes."""
    bench.build_all()
    behind_the_stamps(package(bench, "ipvsadm"), b"")
    shutil.rmtree(bench.artifacts / "repo")
    with pytest.raises(Refused) as refused:
        bench.build_all()
    assert shlex.split(refused.value.hint)[:4] == ["./inv", "build-all", "--force", "ipvsadm"]


def test_an_output_that_changes_while_it_is_built_a_second_time_is_not_compared(bench: Bench) -> None:
    def spoiling(_: ToyJob, work: Work) -> None:
        if not work.compiler_cache:
            put(package(bench, "ipvsadm"), rpm("ipvsadm", text=EVIL).read_bytes())

    bench.kind.watching = spoiling
    with pytest.raises(Refused, match="ipvsadm: its output was changed while this run used it: out/rpms/ipvsadm-1"):
        bench.build("ipvsadm", check_reproducible=True)


# --- What failed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda failed: (failed / "meta.json").write_text(""), "got a damaged one: empty"),
        (
            lambda failed: replace(step_record.read(failed), step="keepalived").write(failed),
            "got lts61 keepalived, failed",
        ),
        (lambda failed: replace(step_record.read(failed), line="el6").write(failed), "got el6 ipvsadm, failed"),
    ],
)
def test_no_shell_is_opened_in_what_another_run_left(
    bench: Bench, spoil: Callable[[Path], object], problem: str
) -> None:
    bench.kind.failing = ("ipvsadm",)
    with pytest.raises(BuildFailed):
        bench.build("ipvsadm")
    spoil(bench.artifacts / "steps/lts61/ipvsadm/.failed")
    with pytest.raises(Refused) as refused:
        shell.shell(line_loader.load("lts61"), "ipvsadm", bench.job().context, bench.job().options)
    assert problem in refused.value.what


def test_artifacts_that_were_carried_to_another_place_are_published_for_it_and_not_built_again(
    bench: Bench, tmp_path: Path
) -> None:
    """What docs/operating.md says of a move to another host."""
    there = bench.build_all()
    moved = Bench(tmp_path / "another host")
    moved.artifacts.mkdir(parents=True, exist_ok=True)
    process.run(["rsync", "-a", "--delete", f"{bench.artifacts}/", f"{moved.artifacts}/"])
    told = moved.build_all(dry_run=True)["steps"]
    would_run = {name: step["why"] for name, step in told.items() if step["would"] == "ran"}
    assert list(would_run) == [PUBLISH] and would_run[PUBLISH].startswith("its output was published for ")
    here = moved.build_all()
    assert here["snapshot"]["id"] == there["snapshot"]["id"]
    assert set(states(moved.build_all()).values()) == {"reused"}
