"""Publishers that are killed, meet each other or fill the disk: no reader sees a broken repository."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import threading
from pathlib import Path

import pytest

from pipeline.core import disk_space, faults, process
from pipeline.core.fs import sha256_of
from pipeline.errors import HostLacks, Refused
from pipeline.publish import repodata, signing, verify
from pipeline.publish.signing import Signer
from pipeline.publish.verify import verify_snapshot
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import agents, rpm, shared_keys
from tests.fixtures.snapshots import BESIDE, POINTS, everything, publish, publishing, wanted
from tests.fixtures.stores import no_room


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_leaves_the_old_snapshot_and_the_next_run_completes(
    inv: Inv, signer: Signer, root: Path, point: str
) -> None:
    old = publish(wanted(), signer, root)
    before = everything(old.path)
    argv = publishing(root, rpm(text="two"))
    with process.start(argv, env=inv.environment(FNAT_TRACE_KILL=point)) as child:
        assert child.wait(60) == -signal.SIGKILL
    assert old.latest.resolve() == old.path
    assert everything(old.path) == before
    verify_snapshot(old.latest, signer.key.fingerprint)
    new = process.run(argv, env=inv.environment()).text.strip()
    assert new != old.id
    assert old.latest.resolve().name == new
    verify_snapshot(old.latest, signer.key.fingerprint)
    assert {path.name for path in (root / "el6" / "snapshots").iterdir()} == {old.id, new}
    for path in old.latest.resolve().rglob("*"):
        assert not path.stat().st_mode & 0o222, f"{path} can be written"


def test_what_a_kill_left_goes_even_when_the_next_run_has_nothing_to_do(inv: Inv, signer: Signer, root: Path) -> None:
    old = publish(wanted(), signer, root)
    argv = publishing(root, rpm(text="two"))
    with process.start(argv, env=inv.environment(FNAT_TRACE_KILL="latest.before-rename")) as child:
        child.wait(60)
    assert publish(wanted(), signer, root).reused
    assert {entry.name for entry in (root / "el6").iterdir()} == BESIDE
    assert old.latest.resolve() == old.path


def test_a_snapshot_is_complete_beside_its_place_and_moved_there_by_one_rename(
    signer: Signer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[int]] = {}

    def point(name: str) -> None:
        for pattern in (".making-*/*/snapshot.json", "snapshots/*/snapshot.json"):
            for file in (root / "el6").glob(pattern):
                verify_snapshot(file.parent, signer.key.fingerprint)
                seen.setdefault(name, []).append(file.parent.stat().st_ino)

    monkeypatch.setattr(faults, "point", point)
    publish(wanted(), signer, root)
    points = ["snapshot.before-rename", "snapshot.after-rename", "mirrorlist.before-rename", "latest.before-rename"]
    assert list(seen) == points
    assert len({number for numbers in seen.values() for number in numbers}) == 1


def test_a_killed_publisher_leaves_nothing_running(inv: Inv, root: Path) -> None:
    with process.start(publishing(root, rpm()), env=inv.environment(FNAT_TRACE_KILL=POINTS[0])) as child:
        child.wait(60)
    assert inv.living() == agents(inv) == []
    process.run(publishing(root, rpm()), env=inv.environment())
    assert inv.living(0) == agents(inv, 0) == []
    assert list(inv.tmp.iterdir()) == []


def test_two_publishers_of_the_same_content_make_one_snapshot(inv: Inv, root: Path) -> None:
    argv, env = publishing(root, rpm(), rpm("perf")), inv.environment()
    with process.start(argv, env=env) as one, process.start(argv, env=env) as two:
        said = [child.communicate(timeout=60) for child in (one, two)]
    assert said[0] == said[1], said
    assert [path.name for path in (root / "el6" / "snapshots").iterdir()] == [said[0][0].decode().strip()]


def test_two_publishers_of_different_content_make_two_whole_snapshots(inv: Inv, root: Path) -> None:
    env = inv.environment()
    with (
        process.start(publishing(root, rpm()), env=env) as one,
        process.start(publishing(root, rpm("perf")), env=env) as two,
    ):
        said = [child.communicate(timeout=60)[0].decode().strip() for child in (one, two)]
    assert {path.name for path in (root / "el6" / "snapshots").iterdir()} == set(said) and len(set(said)) == 2
    with signing.open_signer("", shared_keys()) as signer:
        for name in said:
            verify_snapshot(root / "el6" / "snapshots" / name, signer.key.fingerprint)
    assert (root / "el6" / "latest").resolve().name in said


def test_a_reader_never_sees_a_broken_repository(signer: Signer, root: Path) -> None:
    latest = publish(wanted(), signer, root).latest
    over, seen, broken = threading.Event(), list[str](), list[str]()

    def read() -> None:
        while not over.is_set():
            snapshot = latest.resolve()
            sums = (line.split("  ") for line in (snapshot / "SHA256SUMS").read_text().splitlines())
            broken.extend(name for digest, name in sums if sha256_of(snapshot / name) != digest)
            there = {path.name for path in (snapshot / "director").glob("*.rpm")}
            if set(repodata.check(snapshot / "director")) != there:
                broken.append(str(snapshot))
            seen.append(snapshot.name)

    def reading() -> None:
        try:
            read()
        except (OSError, Refused, ValueError) as error:
            broken.append(repr(error))

    reader = threading.Thread(target=reading)
    reader.start()
    try:
        for number in range(4):
            publish(wanted(rpm(text=str(number))), signer, root)
            publish(wanted(), signer, root)
    finally:
        over.set()
        reader.join()
    assert broken == []
    assert len(set(seen)) >= 4 and len(seen) > 20


@pytest.mark.parametrize("limit", [0, 2000, 5000, 20_000], ids=["nothing", "copying", "rpmsign", "createrepo_c"])
def test_no_room_is_the_hosts_fault_and_the_old_snapshot_stays(signer: Signer, root: Path, limit: int) -> None:
    old, new = publish(wanted(), signer, root), wanted(rpm(text="two"))
    before = everything(root)
    with no_room(limit), pytest.raises(HostLacks, match="the shell's limit `ulimit -f`"):
        publish(new, signer, root)
    assert {name: row for name, row in everything(root).items() if name != "el6/.lock"} == {
        name: row for name, row in before.items() if name != "el6/.lock"
    }
    verify_snapshot(old.latest, signer.key.fingerprint)
    assert publish(new, signer, root).latest.resolve() != old.path


def test_a_disk_that_is_really_full_is_told_apart_at_every_point(inv: Inv, tmp_path: Path) -> None:
    """A file system of 400 KiB in a namespace of its own, with less and less room left on it."""
    mount = tmp_path / "mount"
    mount.mkdir()
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    good = shlex.join(publishing(mount / "repo", rpm()))
    other = shlex.join(publishing(mount / "repo", rpm(text="two"), rpm("perf")))
    script = f"""
    mount -t tmpfs -o size=400k tmpfs {mount} || exit 99
    {good} > /dev/null || exit 98
    before=$(readlink {mount}/repo/el6/latest)
    for free in 4 16 24 40 60; do
        left=$(df --output=avail -k {mount} | tail -1)
        head -c $(( (left - free) * 1024 )) /dev/zero > {mount}/filler
        {other} > /dev/null
        echo "$free $? $(readlink {mount}/repo/el6/latest) $(ls -A {mount}/repo/el6 | tr '\\n' ' ')"
        rm {mount}/filler
    done
    echo "was $before"
    {other} > /dev/null; echo "then $?"
    """
    done = process.run(["unshare", *user, "--mount", "bash", "-c", script], env=inv.environment(), accept=range(256))
    assert done.status == 0, done.text + done.error_text
    *rows, was, then = done.text.splitlines()
    assert len(rows) == 5
    for row in rows:
        _, status, latest, left = row.split(" ", 3)
        assert (status, latest) == ("7", was.removeprefix("was ")), row + done.error_text
        assert set(left.split()) == BESIDE
    assert then == "then 0", done.error_text
    assert done.error_text.count("no disk space is left") == 5


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_repository_that_may_not_be_written_is_the_hosts_fault(tmp_path: Path, number: int) -> None:
    with pytest.raises(HostLacks, match="cannot be written") as lacks, disk_space.writing(tmp_path):
        raise OSError(number, os.strerror(number))
    assert lacks.value.where == str(tmp_path)


def test_other_failures_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_space.writing(tmp_path):
        (tmp_path / "absent").read_bytes()
    for script in ("echo 'file operation error' >&2; exit 3", "kill -9 $$"):
        with pytest.raises(process.ProgramFailed), disk_space.writing(tmp_path):
            process.run(["sh", "-c", script])


def test_createrepo_that_is_not_installed_is_the_hosts_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HostLacks, match="createrepo_c: not installed"):
        repodata.create(tmp_path, 1, databases=False)


def test_the_sums_file_is_one_that_sha256sum_reads(signer: Signer, root: Path) -> None:
    made = publish(wanted(), signer, root)
    done = process.run(["sha256sum", "--check", "--strict", verify.SUMS], cwd=made.path)
    assert done.text.count(": OK") == len([p for p in made.path.rglob("*") if p.is_file()]) - 2
