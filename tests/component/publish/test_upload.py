"""Publishing to a directory and with rsync: whole before anything leads to it, whatever ends the publisher."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from pipeline.core import fs, process
from pipeline.core.rsync import Target
from pipeline.errors import ExitCode, HostLacks, Refused, Unreachable, UsageError
from pipeline.publish import mirrorlist, upload
from pipeline.publish.signing import Signer
from pipeline.publish.snapshot import Snapshot, attestations
from pipeline.publish.verify import verify_snapshot
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import rpm
from tests.fixtures.rsyncd import daemon
from tests.fixtures.snapshots import built, changed, flipped, publish, wanted

POINTS = ("upload.marked", "upload.copied", "upload.recorded", "upload.switched", "upload.removed")
UPLOAD = """\
import sys
from pathlib import Path
from pipeline.errors import PipelineError
from pipeline.publish import upload
from pipeline.core.rsync import Target
place, fingerprint, target = sys.argv[1:]
try:
    print(upload.upload(Path(place), fingerprint, Target(target), 1).snapshot)
except PipelineError as error:
    print(error, file=sys.stderr)
    sys.exit(error.code)
"""


def uploading(made: Snapshot, target: Path | str) -> list[str]:
    return [sys.executable, "-c", UPLOAD, str(made.path.parent.parent), made.fingerprint, str(target)]


def uploaded(made: Snapshot, target: Path | str, keep: int = 5) -> upload.Uploaded:
    return upload.upload(made.path.parent.parent, made.fingerprint, Target(str(target)), keep)


def led_to(target: Path, made: Snapshot) -> str:
    """The id of the snapshot that readers of the target are led to; it is whole."""
    [first, *_] = mirrorlist.ids(target / "el6" / "mirrorlist-director")
    verify_snapshot(target / "el6" / "snapshots" / first, made.fingerprint)
    return first


def remote_shell(place: Path) -> Path:
    """A shell in the place of ssh that reaches repo.example.com, which is this host."""
    shell = place / "shell"
    shell.write_text('#!/bin/sh\n[ "$1" = repo.example.com ] || exit 255\nshift\nexec sh -c "$*"\n')
    shell.chmod(0o755)
    return shell


def two(signer: Signer, root: Path) -> Snapshot:
    return publish(wanted(rpm(text="two")), signer, root)


def test_a_directory_gets_all_that_readers_need_and_nothing_of_runs(signer: Signer, root: Path, tmp_path: Path) -> None:
    made, target = publish(wanted(), signer, root), tmp_path / "srv" / "lvs"
    attestations(made.path).mkdir(parents=True)
    (attestations(made.path) / "kernel.intoto.json").write_text("{}")
    done = uploaded(made, target)
    assert (done.snapshot, done.kept, done.removed) == (made.id, (made.id,), ())
    assert led_to(target, made) == made.id == (target / "el6" / "latest").resolve().name
    assert {path.name for path in (target / "el6").iterdir()} == {
        *("attestations", "keys", "latest", "mirrorlist-director", "publications.json", "snapshots")
    }
    assert (target / "el6" / "attestations" / made.id / "kernel.intoto.json").is_file()
    modes = {oct(path.stat().st_mode & 0o777) for path in target.rglob("*")}
    assert modes == {"0o755", "0o644"}, "a web server of another user reads it"
    again = uploaded(made, target)
    assert again.kept == (made.id,)
    publish(wanted(sets={"stock": built(rpm(text="three"))}), signer, root)
    uploaded(made, target)
    assert not (target / "el6" / "mirrorlist-director").exists() and (target / "el6" / "mirrorlist-stock").exists()
    fs.remove(root / "el6" / "attestations")


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_leaves_the_old_or_the_new_and_the_next_run_completes(
    inv: Inv, signer: Signer, root: Path, tmp_path: Path, point: str
) -> None:
    old, target = publish(wanted(), signer, root), tmp_path / "target"
    uploaded(old, target)
    new = two(signer, root)
    with process.start(uploading(new, target), env=inv.environment(FNAT_TRACE_KILL=point)) as child:
        assert child.wait(60) == -signal.SIGKILL
    assert led_to(target, old) == (new.id if POINTS.index(point) >= POINTS.index("upload.switched") else old.id)
    assert process.run(uploading(new, target), env=inv.environment()).text.strip() == new.id
    assert led_to(target, new) == new.id == (target / "el6" / "latest").resolve().name
    verify_snapshot(target / "el6" / "snapshots" / old.id, old.fingerprint)


def test_a_kill_in_mid_copy_leaves_nothing_that_stays(signer: Signer, root: Path, tmp_path: Path) -> None:
    """What it leaves: parts of a snapshot that is no longer the latest here, and a temporary name of rsync's."""
    made, target = publish(wanted(), signer, root), tmp_path / "target"
    uploaded(made, target)
    part = target / "el6" / "snapshots" / ("f" * 32) / "director" / ".kernel.rpm.Ab12Cd"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(10))
    (target / "el6" / "snapshots" / made.id / ".README.Ab12Cd").write_text("x")
    done = uploaded(made, target)
    assert done.removed == ("f" * 32,) and not part.parent.parent.exists()
    verify_snapshot(target / "el6" / "snapshots" / made.id, made.fingerprint)


@pytest.mark.parametrize("served", ["directory", "server"])
def test_what_is_not_ours_stays_among_the_snapshots_and_is_named(
    signer: Signer, root: Path, tmp_path: Path, served: str
) -> None:
    made, target = publish(wanted(), signer, root), tmp_path / "target"
    uploaded(made, target)
    place, old = target / "el6", "f" * 32
    foreign = ["attestations/notes/day", "attestations/report.txt", "snapshots/README", f"snapshots/{old}.keep/a"]
    left = [f"attestations/{old}/a", "attestations/.latest.intoto.json.Ab12Cd", f"snapshots/{old}/a"]
    for name in [*foreign, *left]:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("x")
    with daemon(tmp_path, target) as url:
        done = uploaded(made, target if served == "directory" else url)
    assert [name for name in foreign if (place / name).read_text() != "x"] == []
    assert [name for name in left if (place / name).exists()] == []
    assert done.removed == (".latest.intoto.json.Ab12Cd", old)
    expected = ["attestations/notes", "attestations/report.txt", "snapshots/README", f"snapshots/{old}.keep"]
    assert list(done.foreign) == [f"el6/{name}" for name in expected]


def test_snapshots_stay_while_clients_may_use_them(
    signer: Signer, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, begun = tmp_path / "target", int(time.time())
    made = [publish(wanted(rpm(text=text)), signer, root) for text in ("one", "two", "three")]

    def at(number: int, seconds: int, keep: int = 1) -> upload.Uploaded:
        publish(wanted(rpm(text=("one", "two", "three")[number])), signer, root)
        monkeypatch.setattr("pipeline.publish.upload.time.time", lambda: float(begun + seconds))
        return uploaded(made[number], target, keep)

    one, second, three = (snapshot.id for snapshot in made)
    assert at(0, 0).kept == (one,)
    assert at(1, 100).kept == (second, one), "it was the latest a moment ago"
    assert at(1, 100 + upload.KEPT_FOR - 1).kept == (second, one)
    assert at(2, 100 + upload.KEPT_FOR, keep=2).kept == (three, second)
    assert mirrorlist.ids(target / "el6" / "mirrorlist-director") == [three, second]
    assert {path.name for path in (target / "el6" / "snapshots").iterdir()} == {three, second}
    assert at(0, 10).kept == (one, three, second), "a clock that was set back removes nothing"


@pytest.mark.parametrize("content", ["file", "directory"])
def test_a_target_that_is_not_ours_is_refused_and_left_alone(
    signer: Signer, root: Path, tmp_path: Path, content: str
) -> None:
    made, target = publish(wanted(), signer, root), tmp_path / "target"
    (target / "photos").mkdir(parents=True) if content == "directory" else target.mkdir()
    if content == "file":
        (target / "photo").write_text("x")
    with pytest.raises(UsageError, match=r"the target: not ours; .*got photo"):
        uploaded(made, target)
    assert len(list(target.iterdir())) == 1


@pytest.mark.parametrize("served", ["directory", "server"])
@pytest.mark.parametrize("linked", ["el6", "el6/snapshots", "el6/keys", "el6/attestations", "el6/snapshots/ID"])
def test_a_link_of_the_targets_owner_is_refused_before_anything_changes(
    signer: Signer, root: Path, tmp_path: Path, linked: str, served: str
) -> None:
    """What was moved to a bigger disk, and a link left in its place."""
    old, target = publish(wanted(), signer, root), tmp_path / "target"
    attestations(old.path).mkdir(parents=True)
    uploaded(old, target)
    place, disk = target / linked.replace("ID", old.id), tmp_path / "disk"
    place.rename(disk)
    place.symlink_to(disk)
    before = {path: path.lstat() for path in [*target.rglob("*"), *disk.rglob("*")]}
    new = two(signer, root)
    with daemon(tmp_path, target) as url, pytest.raises(UsageError, match=r"on the target: a symbolic link; expected"):
        uploaded(new, target if served == "directory" else url)
    after = {path: path.lstat() for path in [*target.rglob("*"), *disk.rglob("*")]}
    assert [(path, each.st_ino, each.st_mtime_ns) for path, each in after.items()] == [
        (path, each.st_ino, each.st_mtime_ns) for path, each in before.items()
    ]
    place.unlink()
    disk.rename(place)
    assert uploaded(new, target).kept == (new.id, old.id)
    fs.remove(root / "el6" / "attestations")


@pytest.mark.parametrize("name", ["latest", "mirrorlist-director", "publications.json"])
def test_a_directory_in_the_place_of_a_file_of_ours_is_not_removed(
    signer: Signer, root: Path, tmp_path: Path, name: str
) -> None:
    made, target = publish(wanted(), signer, root), tmp_path / "target"
    uploaded(made, target)
    (target / "el6" / name).unlink()
    (target / "el6" / name).mkdir()
    (target / "el6" / name / "photo").write_text("x")
    with pytest.raises(UsageError, match=f"el6/{name} on the target: a directory; expected a "):
        uploaded(made, target)
    assert (target / "el6" / name / "photo").is_file()


@pytest.mark.parametrize("shell", [False, True])
def test_a_link_that_leads_nowhere_is_called_that(
    signer: Signer, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: bool
) -> None:
    made, target = publish(wanted(), signer, root), tmp_path / "target"
    target.symlink_to(tmp_path / "disk")
    if shell:
        monkeypatch.setenv("RSYNC_RSH", str(remote_shell(tmp_path)))
    with pytest.raises(UsageError, match=r"the target: a link to .*/disk, where nothing is; expected a directory"):
        uploaded(made, f"repo.example.com:{target}" if shell else target)
    (tmp_path / "disk").mkdir()
    uploaded(made, target)
    assert led_to(tmp_path / "disk", made) == made.id and target.is_symlink()


def test_a_damaged_snapshot_goes_nowhere_and_damage_on_the_target_is_repaired(
    signer: Signer, root: Path, tmp_path: Path
) -> None:
    made, target = publish(wanted(), signer, root), tmp_path / "target"
    uploaded(made, target)
    [there] = (target / "el6" / "snapshots" / made.id / "director").glob("*.rpm")
    status = there.stat()
    there.write_bytes(flipped(there.read_bytes()))
    os.utime(there, ns=(status.st_atime_ns, status.st_mtime_ns))
    uploaded(made, target)
    assert led_to(target, made) == made.id
    [here] = (made.path / "director").glob("*.rpm")
    changed(here, flipped)
    with pytest.raises(Refused, match="not as SHA256SUMS lists it"):
        uploaded(made, target)
    assert led_to(target, made) == made.id


def test_an_rsync_server_is_published_to_as_a_directory_is(signer: Signer, root: Path, tmp_path: Path) -> None:
    old, module = publish(wanted(), signer, root), tmp_path / "module"
    with daemon(tmp_path, module) as url:
        uploaded(old, url)
        new = two(signer, root)
        assert uploaded(new, f"{url}/").kept == (new.id, old.id)
        assert led_to(module, new) == new.id == (module / "el6" / "latest").resolve().name
        (module / upload.MARKER).unlink()
        with pytest.raises(UsageError, match="not ours"):
            uploaded(new, url)
    with pytest.raises(Unreachable, match="the target: not reached"):
        uploaded(new, url)


def test_a_host_is_reached_by_its_shell_whatever_its_directory_is_called(
    signer: Signer, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSYNC_RSH", str(remote_shell(tmp_path)))
    made, target = publish(wanted(), signer, root), tmp_path / "a dir; touch x"
    uploaded(made, f"repo.example.com:{target}")
    assert led_to(target, made) == made.id and not Path("x").exists()
    with pytest.raises(Unreachable, match="the target: not reached"):
        uploaded(made, f"other.example.com:{target}")


def test_a_full_target_loses_nothing(inv: Inv, signer: Signer, root: Path, tmp_path: Path) -> None:
    """A file system of 300 KiB in a namespace of its own."""
    mount, old = tmp_path / "mount", publish(wanted(), signer, root)
    mount.mkdir()
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = shlex.join(uploading(old, mount / "srv"))
    moved = f"ln -sfn snapshots/{{}} {root}/el6/latest"
    new = two(signer, root)
    script = f"""
    mount -t tmpfs -o size=300k tmpfs {mount} || exit 99
    {moved.format(old.id)}; {command} > /dev/null || exit 98
    head -c 1M /dev/zero > {mount}/filler 2> /dev/null
    {moved.format(new.id)}; {command} > /dev/null; echo "full $?"
    head -1 {mount}/srv/el6/mirrorlist-director
    cd {mount}/srv/el6/snapshots/{old.id} && sha256sum --quiet -c SHA256SUMS && echo whole
    rm {mount}/filler
    {command}
    """
    done = process.run(["unshare", *user, "--mount", "bash", "-c", script], env=inv.environment(), accept=range(256))
    full, listed, whole, last = done.text.split("\n")[:4]
    assert (full, whole, last) == (f"full {ExitCode.HOST}", "whole", new.id), done.text + done.error_text
    assert f"/{old.id}/" in listed and "the target: no disk space is left" in done.error_text


def test_a_target_that_may_not_be_written_is_the_hosts_fault(signer: Signer, root: Path, tmp_path: Path) -> None:
    made = publish(wanted(), signer, root)
    (tmp_path / "file").write_text("")
    with pytest.raises((HostLacks, OSError)):
        uploaded(made, tmp_path / "file" / "below")
