"""Looking after the store: what lines last used stays, the rest goes; damage is found, said and healed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core.fs import sha256_of
from pipeline.errors import ExitCode
from pipeline.sources.store import Store
from tests.fixtures.badserver import BadServer, payload
from tests.fixtures.commandline import Ended, Inv
from tests.fixtures.debianarchive import SECURITY, SUITE, Archive
from tests.fixtures.stores import assert_intact
from tests.fixtures.toy import SRPM, TARBALL, Toy, make_toy


@dataclass
class Kept:
    """A store into which the toy's line was fetched."""

    toy: Toy
    inv: Inv

    @property
    def objects(self) -> set[str]:
        """The digests of what is in it."""
        return {path.name for path in (self.inv.store / "sha256").glob("*/*")}

    @property
    def used(self) -> set[str]:
        """The digests of what the line uses."""
        return {sha256_of(self.toy.mirror / name) for name in (SRPM, TARBALL)}

    def object(self, name: str) -> Path:
        digest = sha256_of(self.toy.mirror / name)
        return self.inv.store / "sha256" / digest[:2] / digest

    def fetch(self, *options: str, expect: int = ExitCode.OK) -> Ended:
        return self.inv("fetch", "--line-file", self.toy.line_file, *options, expect=expect)

    def stray(self, content: bytes) -> str:
        """An object that no line uses; its digest."""
        file = self.inv.store / "partial" / "stray"
        file.write_bytes(content)
        digest = sha256_of(file)
        Store(self.inv.store).adopt(file, digest)
        return digest


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    place = tmp_path_factory.mktemp("fetched")
    kept = Kept(make_toy(place / "toy"), Inv(place))
    kept.inv("pin", "toy", "kernel-srpm", "--line-file", kept.toy.line_file)
    kept.fetch()
    return kept


@pytest.fixture
def kept(fetched: Kept, tmp_path: Path) -> Kept:
    """A copy of the store that was fetched, to be spoilt."""
    inv = Inv(tmp_path)
    shutil.copytree(fetched.inv.artifacts, inv.artifacts)
    return Kept(fetched.toy, inv)


def damage(path: Path) -> str:
    """Changes a byte of an object, as a failing disk does; the digest it has now."""
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)
    return sha256_of(path)


def test_gc_keeps_what_the_line_last_used_and_removes_the_rest(kept: Kept) -> None:
    strays = {kept.stray(b"of an older pin"), kept.stray(b"of a line that is no more")}
    assert kept.objects == kept.used | strays
    ended = kept.inv("store", "gc")
    assert kept.objects == kept.used
    assert ended.out.startswith("2 files removed, ") and "kept: what toy last used, 2 files" in ended.out
    assert "nothing fetched" in kept.fetch().out


def test_gc_as_json_lists_what_went_and_what_stayed(kept: Kept) -> None:
    stray = kept.stray(b"stray")
    said = kept.inv("store", "gc", "--json").json
    assert ([Path(path).name for path in said["removed"]], said["bytes"]) == ([stray], len(b"stray"))
    assert set(said["kept"]) == kept.used


def test_a_second_gc_finds_nothing_to_remove(kept: Kept) -> None:
    kept.inv("store", "gc")
    assert kept.inv("store", "gc").out.startswith("0 files removed, ")


def test_gc_of_a_store_that_is_not_there_yet_removes_nothing(tmp_path: Path) -> None:
    assert Inv(tmp_path)("store", "gc").out.startswith("0 files removed, ")


def test_gc_keeps_what_each_of_several_lines_last_used(kept: Kept, tmp_path: Path) -> None:
    older, newer = payload(9_000, 9), payload(9_000, 10)
    with BadServer() as server:
        archive = Archive(server)
        old = archive.add(SUITE, "linux", "6.1.9-1", older)
        archive.publish()
        line = archive.write_line(tmp_path / "deb", version="6.1.")
        options = ("--line-file", line, "--debian-mirror", archive.url)
        kept.inv("fetch", *options)
        new = archive.add(SECURITY, "linux", "6.1.10-1", newer)
        archive.publish()
        kept.inv("fetch", *options, "--refresh")
    assert kept.objects == kept.used | {old, new}
    said = kept.inv("store", "gc").out
    assert kept.objects == kept.used | {new}, "the older version is no longer what the line uses"
    assert "kept: what deb, toy last used, 3 files" in said


def test_gc_removes_what_killed_and_refused_runs_left(kept: Kept) -> None:
    partial, bad = kept.inv.store / "partial", kept.inv.store / "bad"
    (partial / f"{'0' * 64}.part").write_bytes(b"half")
    bad.mkdir()
    (bad / f"{'1' * 64}-file").write_bytes(b"wrong")
    kept.inv("store", "gc")
    assert list(partial.iterdir()) == [] and list(bad.iterdir()) == []


def test_gc_is_refused_while_another_run_uses_the_store(kept: Kept) -> None:
    stray = kept.stray(b"stray")
    handle = os.open(kept.inv.store / "locks" / "store.lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        ended = kept.inv("store", "gc", expect=ExitCode.LOCKED)
    finally:
        os.close(handle)
    assert f"pid {os.getpid()}: " in ended.err
    assert stray in kept.objects


def test_verify_of_a_good_store_says_so(kept: Kept) -> None:
    ended = kept.inv("store", "verify")
    assert ended.out == "every file of the store is what its name says\n"
    assert kept.inv("store", "verify", "--json").json == {"damaged": []}


@pytest.mark.parametrize("name", [SRPM, TARBALL])
def test_verify_finds_a_damaged_object_and_fetch_heals_it(kept: Kept, name: str) -> None:
    right = kept.object(name)
    actual = damage(right)
    ended = kept.inv("store", "verify", expect=ExitCode.REFUSED)
    assert "damaged files" in ended.out and right.name in ended.out and actual in ended.out
    assert "next: `./inv fetch LINE` fetches them anew" in ended.out
    assert not right.exists()
    assert "2 sources verified, 1 fetched" in kept.fetch().out
    assert sha256_of(right) == right.name
    kept.inv("store", "verify")
    assert_intact(Store(kept.inv.store), empty_partial=True)


def test_what_was_damaged_is_kept_to_be_looked_at(kept: Kept) -> None:
    right = kept.object(TARBALL)
    actual = damage(right)
    [said] = kept.inv("store", "verify", "--json", expect=ExitCode.REFUSED).json["damaged"]
    assert (said["sha256"], said["actual"]) == (right.name, actual)
    assert sha256_of(kept.inv.cwd / said["kept"]) == actual


def _cut(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 100)


def _swap(path: Path) -> None:
    other = next(other for other in path.parents[1].glob("*/*") if other != path)
    path.unlink()
    shutil.copy(other, path)


@pytest.mark.parametrize("how", [damage, _cut, _swap], ids=["one byte", "cut short", "another object"])
def test_what_is_not_the_object_any_more_is_had_anew_by_fetch_alone(kept: Kept, how: Callable[[Path], object]) -> None:
    right = kept.object(TARBALL)
    how(right)
    actual = sha256_of(right)
    ended = kept.fetch()
    assert "1 fetched" in ended.out and f"is not what was fetched: sha256 {actual}" in ended.err
    assert sha256_of(right) == right.name
    assert [sha256_of(path) for path in (kept.inv.store / "bad").iterdir()] == [actual]


def test_what_is_not_the_object_any_more_is_not_exported_where_there_is_no_other(kept: Kept, tmp_path: Path) -> None:
    damage(kept.object(TARBALL))
    line, text = kept.toy.line_file, kept.toy.line_file.read_text()
    line.write_text(text.replace(kept.toy.mirror.as_uri(), "http://127.0.0.1:9"))
    try:
        words = ("mirror", "export", tmp_path / "mirror", "--line-file", line, "--offline")
        ended = kept.inv(*words, expect=ExitCode.UNREACHABLE)
    finally:
        line.write_text(text)
    assert "is not what was fetched" in ended.err and "drop --offline" in ended.err
    assert not (tmp_path / "mirror").exists()


def test_there_are_only_the_two_actions(tmp_path: Path) -> None:
    ended = Inv(tmp_path)("store", "clean", expect=ExitCode.USAGE)
    assert "ACTION of store 'clean': not found" in ended.err and "known: gc, verify" in ended.err
