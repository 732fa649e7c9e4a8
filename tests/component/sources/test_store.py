"""The content-addressed store on a real file system: what is in it stays right, whoever comes and goes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.core import faults, manifest
from pipeline.errors import ExitCode, HostLacks, Locked, Refused
from pipeline.sources.store import Store
from tests.fixtures.stores import assert_intact, no_room

CONTENT = b"what upstream published"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "store")
    yield made
    assert_intact(made)


def put(store: Store, content: bytes = CONTENT) -> str:
    digest = hashlib.sha256(content).hexdigest()
    store.adopt(loose(store, content), digest)
    return digest


def loose(store: Store, content: bytes = CONTENT, name: str = "loose") -> Path:
    path = store.root / "partial" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def damage(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def link(path: Path, moved: Path) -> None:
    """Puts a link in a file's place that leads to the file."""
    path.rename(moved)
    path.symlink_to(moved)


def directory(path: Path) -> None:
    """Puts a directory in a file's place."""
    path.unlink()
    path.mkdir()


def test_an_adopted_file_is_moved_to_its_digest_and_can_no_longer_be_written(store: Store) -> None:
    temporary = loose(store)
    path = store.adopt(temporary, DIGEST)
    assert path == store.root / "sha256" / DIGEST[:2] / DIGEST
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert not temporary.exists()


def test_adopting_what_is_there_already_changes_nothing_and_leaves_nothing(store: Store) -> None:
    put(store)
    before = store.path(DIGEST).stat()
    put(store)
    after = store.path(DIGEST).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert_intact(store, empty_partial=True)


def test_the_second_of_two_that_adopt_one_temporary_finds_it_adopted(store: Store) -> None:
    temporary = loose(store)
    assert store.adopt(temporary, DIGEST) == store.adopt(temporary, DIGEST)


def test_an_object_cut_short_by_the_disk_is_replaced_by_a_good_one(store: Store) -> None:
    put(store)
    damage(store.path(DIGEST), CONTENT[:5])
    assert not store.has(DIGEST, len(CONTENT))
    put(store)
    assert store.has(DIGEST, len(CONTENT))


def test_has_looks_at_the_size_too(store: Store) -> None:
    assert not store.has(DIGEST)
    put(store)
    assert store.has(DIGEST)
    assert store.has(DIGEST, len(CONTENT))
    assert not store.has(DIGEST, len(CONTENT) + 1)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "ab", DIGEST.upper(), DIGEST + "\n", "z" * 64])
def test_what_is_no_digest_never_becomes_a_path(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        store.path(name)


def test_a_reader_sees_the_object_whole_or_not_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(faults, "point", lambda name: seen.update({name: store.has(DIGEST, len(CONTENT))}))
    put(store)
    assert seen == {"publish.before-rename": False, "publish.after-rename": True}


def test_bad_bytes_are_kept_under_the_digest_they_have_and_a_harmless_name(store: Store) -> None:
    actual = hashlib.sha256(b"evil").hexdigest()
    kept = store.keep_bad(loose(store, b"evil"), "../../a b/ü.rpm", actual)
    assert kept.parent == store.root / "bad"
    assert kept.name == f"{actual}-.._.._a_b__.rpm"
    assert kept.read_bytes() == b"evil"


def test_verify_says_nothing_of_a_store_that_is_right(store: Store) -> None:
    put(store)
    put(store, b"another")
    assert store.verify() == []
    assert Store(store.root / "nowhere").verify() == []
    (store.root / "nowhere" / "locks" / "store.lock").unlink()
    (store.root / "nowhere" / "locks").rmdir()
    (store.root / "nowhere").rmdir()


def test_verify_moves_a_damaged_object_away_and_reports_it(store: Store) -> None:
    good, hurt = put(store), put(store, b"another")
    damage(store.path(hurt), b"anothes")  # same size: only the digest tells
    [damaged] = store.verify()
    assert (damaged.sha256, damaged.actual) == (hurt, hashlib.sha256(b"anothes").hexdigest())
    assert damaged.kept.read_bytes() == b"anothes"
    assert not store.has(hurt)
    assert store.has(good)
    assert store.verify() == []


def test_verify_reports_a_file_that_does_not_belong_among_the_objects(store: Store) -> None:
    stray = store.root / "sha256" / "ab" / "notes.txt"
    stray.parent.mkdir(parents=True)
    stray.write_text("hello")
    [damaged] = store.verify()
    assert damaged.sha256 == "notes.txt"
    assert not stray.exists()


def test_verify_looks_again_once_it_has_the_lock(store: Store) -> None:
    hurt = put(store)
    damage(store.path(hurt), b"short")
    found = []
    with store.object_lock(hurt):  # a fetch that is about to repair it
        thread = threading.Thread(target=lambda: found.extend(store.verify()))
        thread.start()
        put(store)
    thread.join()
    assert found == []
    assert store.has(hurt, len(CONTENT))


UNLIKE: dict[str, Callable[[Path], object]] = {
    "one byte": lambda path: damage(path, CONTENT[:-1] + b"D"),
    "emptied": lambda path: damage(path, b""),
    "cut short": lambda path: damage(path, CONTENT[:5]),
    "another's bytes": lambda path: damage(path, b"what upstream did not say"),
    "another object": lambda path: path.with_name("x").write_bytes(CONTENT[::-1]) and path.with_name("x").replace(path),
    "a link to the same": lambda path: link(path, path.parents[2] / "x"),
    "a directory": lambda path: directory(path),
}


@pytest.mark.parametrize("how", UNLIKE)
@pytest.mark.parametrize("sized", [True, False])
def test_what_is_not_the_object_is_found_before_it_is_used(store: Store, how: str, sized: bool) -> None:
    put(store)
    before = store.path(DIGEST).stat()
    UNLIKE[how](store.path(DIGEST))
    with contextlib.suppress(OSError):
        os.utime(store.path(DIGEST), ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)
    assert not store.has(DIGEST, len(CONTENT) if sized else None)
    assert [path for path, _ in store.problems()] == [store.path(DIGEST)]
    damaged = store.evict(DIGEST)
    assert damaged is not None and os.path.lexists(damaged.kept) and not os.path.lexists(store.path(DIGEST))
    assert store.evict(DIGEST) is None
    assert store.path(put(store)).read_bytes() == CONTENT
    assert store.has(DIGEST, len(CONTENT))
    shutil.rmtree(store.root / "bad")
    (store.root / "x").unlink(missing_ok=True)


def test_adopting_over_what_is_not_the_object_keeps_that_as_evidence(store: Store) -> None:
    put(store)
    damage(store.path(DIGEST), CONTENT[:-1] + b"D")
    put(store)
    assert store.path(DIGEST).read_bytes() == CONTENT
    assert [path.read_bytes() for path in (store.root / "bad").iterdir()] == [CONTENT[:-1] + b"D"]


@pytest.mark.parametrize("how", ["emptied", "removed", "that of another object"])
def test_without_its_stamp_an_object_is_read(store: Store, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    put(store)
    stamp = store.root / "records" / f"stamp-{DIGEST}.json"
    if how == "that of another object":
        shutil.copy(stamp.with_name(f"stamp-{put(store, b'another')}.json"), stamp)
    elif how == "emptied":
        stamp.write_text("")
    else:
        stamp.unlink()
    read = reading(monkeypatch)
    assert store.has(DIGEST) and store.has(DIGEST)
    assert read == [store.path(DIGEST)], "once; its stamp was recorded then"


def test_an_object_with_its_stamp_is_not_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)
    read = reading(monkeypatch)
    assert store.has(DIGEST) and store.has(DIGEST, len(CONTENT))
    assert read == []


def reading(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read for their digests from now on."""
    read: list[Path] = []
    real = manifest.sha256_at

    def recording(path: Path) -> tuple[str, os.stat_result]:
        read.append(path)
        return real(path)

    monkeypatch.setattr(manifest, "sha256_at", recording)
    return read


def test_gc_removes_what_nobody_keeps_and_says_what(store: Store) -> None:
    kept, dropped = put(store), put(store, b"old")
    bad = store.keep_bad(loose(store, b"evil"), "evil", hashlib.sha256(b"evil").hexdigest())
    stale = loose(store, b"part", "unpinned-1.part")
    report = store.gc({kept})
    assert set(report.removed) == {store.path(dropped), bad, stale}
    assert report.freed == len(b"old") + len(b"evil") + len(b"part")
    assert store.has(kept)
    assert not store.path(dropped).parent.exists()
    assert_intact(store, empty_partial=True)


def test_gc_keeps_a_download_that_will_be_resumed(store: Store) -> None:
    store.partial(DIGEST).restart("http://example.invalid/f", '"one"')
    store.partial("0" * 64).restart("http://example.invalid/g", '"one"')
    store.gc({DIGEST})
    assert {path.name for path in (store.root / "partial").iterdir()} == {f"{DIGEST}.part", f"{DIGEST}.json"}


def test_gc_removes_nothing_when_one_of_those_to_keep_is_misspelt(store: Store) -> None:
    put(store)
    with pytest.raises(ValueError, match="not a SHA-256"):
        store.gc({DIGEST[:-1]})
    assert store.has(DIGEST)


def test_gc_removes_temporaries_of_killed_writes_but_no_record(store: Store) -> None:
    store.write_record("pin", {"sha256": DIGEST})
    (store.root / "records" / ".pin.json.x1").write_text("{")
    store.gc(set())
    assert [path.name for path in (store.root / "records").iterdir()] == ["pin.json"]


def test_gc_is_refused_while_anyone_uses_the_store_and_the_user_is_named(store: Store) -> None:
    put(store)
    with store.using(), pytest.raises(Locked) as refused:
        store.gc(set())
    assert refused.value.code is ExitCode.LOCKED
    assert f"pid {os.getpid()}" in refused.value.why
    assert store.has(DIGEST)
    store.gc(set())


def test_the_name_of_an_earlier_holder_is_not_given_for_a_reader(store: Store) -> None:
    store.gc(set())
    (store.root / "locks" / "store.lock").write_text("pid 1: gc of last week\n")
    with store.using(), pytest.raises(Locked) as refused, store.changing():
        pass
    assert "last week" not in refused.value.why


def test_who_uses_the_store_waits_for_who_changes_it(store: Store) -> None:
    entered = threading.Event()

    def use() -> None:
        with store.using():
            entered.set()

    with store.changing():
        thread = threading.Thread(target=use)
        thread.start()
        assert not entered.wait(0.05)
    thread.join()
    assert entered.is_set()


def test_many_use_the_store_at_once(store: Store) -> None:
    with store.using(), store.using():
        pass


def test_an_object_lock_is_held_by_one_and_others_are_free(store: Store) -> None:
    with store.object_lock("a"), store.object_lock("b"), pytest.raises(Locked), store.object_lock("a", wait=False):
        pass


def test_a_record_is_read_back_replaced_and_missed(store: Store) -> None:
    name = "debian/bookworm ../ipvsadm"
    assert store.record(name, dict[str, object]) is None
    store.write_record(name, {"sha256": DIGEST, "n": 1})
    store.write_record(name, {"sha256": DIGEST, "n": 2})
    assert store.record(name, dict[str, object]) == {"sha256": DIGEST, "n": 2}
    assert len(list((store.root / "records").iterdir())) == 1


UNLIKE_RECORDS: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: path.write_text(""),
    "no JSON": lambda path: path.write_text("{"),
    "no text": lambda path: path.write_bytes(b"\xff"),
    "another shape": lambda path: path.write_text("[1]"),
    "deeper than any": lambda path: path.write_text("[" * 100_000),
    "without a seal": lambda path: path.write_text('{"record": "pin", "says": {"tree": "other"}}'),
    "edited": lambda path: path.write_text(path.read_text().replace("right", "wrong")),
    "that of another": lambda path: shutil.copy(path.with_name("other.json"), path),
    "a link in its place": lambda path: link(path, path.with_name("moved")),
}


@pytest.mark.parametrize("how", UNLIKE_RECORDS)
def test_a_record_that_is_not_as_it_was_written_is_not_believed(store: Store, how: str) -> None:
    said: list[str] = []
    store.note = said.append
    for name in ("pin", "other"):
        store.write_record(name, {"tree": f"right for {name}"})
    path = store.root / "records" / "pin.json"
    UNLIKE_RECORDS[how](path)
    assert [where for where, _ in store.problems()] == [path]
    with pytest.raises(Refused, match="damaged") as refused:
        store.records("p", dict[str, object])
    assert refused.value.hint == "./inv fetch in"
    assert store.record("pin", dict[str, object]) is None
    assert "the record pin of the store: damaged, ignored" in said[0]
    assert len(list((store.root / "bad").iterdir())) == 1, "kept as evidence"
    assert store.record("other", dict[str, object]) == {"tree": "right for other"}
    assert list(store.problems()) == []
    shutil.rmtree(store.root / "bad")


def test_a_record_that_finds_no_room_leaves_the_old_one(store: Store) -> None:
    store.write_record("pin", {"n": 1})
    with no_room(), pytest.raises(HostLacks, match="`ulimit -f`"):
        store.write_record("pin", {"n": 2})
    assert store.record("pin", dict[str, object]) == {"n": 1}
    assert [path.name for path in (store.root / "records").iterdir()] == ["pin.json"]


def test_a_full_disk_can_still_be_cleaned_up(store: Store) -> None:
    put(store)
    with no_room():
        assert store.gc(set()).freed == len(CONTENT)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_says_how_much_is_needed_and_where(store: Store, number: int) -> None:
    with pytest.raises(HostLacks) as refused, store.writing(3 << 20):
        raise OSError(number, os.strerror(number))
    assert "3.0 MiB" in refused.value.what
    assert refused.value.where == str(store.root)
    assert refused.value.code is ExitCode.HOST


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_store_that_may_not_be_written_is_the_hosts_fault(store: Store, number: int) -> None:
    with pytest.raises(HostLacks, match="cannot be written"), store.writing():
        raise OSError(number, os.strerror(number))


def test_the_errors_of_those_who_hold_a_lock_stay_their_own(store: Store) -> None:
    with pytest.raises(PermissionError), store.using():
        raise PermissionError(errno.EACCES, "somewhere else")


def test_a_sidecar_never_speaks_of_other_bytes(store: Store) -> None:
    part = store.partial(DIGEST)
    assert (part.size(), part.origin()) == (0, ("", ""))
    part.restart("http://a.invalid/f", '"one"')
    part.path.write_bytes(b"of a")
    part.restart("http://b.invalid/f", '"two"')
    assert (part.size(), part.origin()) == (0, ("http://b.invalid/f", '"two"'))
    part.forget()
    assert_intact(store, empty_partial=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"url": "x"}', json.dumps("x")])
def test_a_damaged_sidecar_is_no_sidecar(store: Store, text: str) -> None:
    part = store.partial(DIGEST)
    part.restart("http://a.invalid/f", '"one"')
    (store.root / "partial" / f"{DIGEST}.json").write_text(text)
    assert part.origin() == ("", "")


def test_a_sidecar_half_written_by_a_killed_run_goes_with_its_download(store: Store) -> None:
    part = store.partial(DIGEST)
    part.restart("http://a.invalid/f", '"one"')
    (store.root / "partial" / f".{DIGEST}.json.x1").write_text("{")
    part.path.write_bytes(CONTENT)
    store.adopt(part.settle(), DIGEST)
    assert_intact(store, empty_partial=True)
