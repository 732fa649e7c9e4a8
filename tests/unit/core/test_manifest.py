"""Manifests find what changed below a directory, and sealed documents what changed in themselves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core import manifest


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A directory of each kind of entry."""
    root = tmp_path / "made"
    (root / "rpms").mkdir(parents=True)
    (root / "rpms" / "a.rpm").write_bytes(b"package a")
    (root / "rpms" / "b.rpm").write_bytes(b"package b")
    (root / "latest").symlink_to("rpms/a.rpm")
    return root


def swap(root: Path) -> None:
    """Puts a valid other file in a file's place, with its size and times."""
    before = (root / "rpms/a.rpm").stat()
    (root / "rpms/a.rpm").write_bytes(b"package x")
    os.utime(root / "rpms/a.rpm", ns=(before.st_atime_ns, before.st_mtime_ns))


def exchange(root: Path) -> None:
    """Lets two files change places."""
    (root / "rpms/a.rpm").rename(root / "c")
    (root / "rpms/b.rpm").rename(root / "rpms/a.rpm")
    (root / "c").rename(root / "rpms/b.rpm")


def relink(root: Path) -> None:
    """Lets the link point elsewhere."""
    (root / "latest").unlink()
    (root / "latest").symlink_to("rpms/b.rpm")


def link(root: Path) -> None:
    """Puts a link in a file's place that leads to the same bytes."""
    (root / "rpms/b.rpm").rename(root.parent / "b")
    (root / "rpms/b.rpm").symlink_to(root.parent / "b")


def fifo(root: Path) -> None:
    """Puts a FIFO in a file's place."""
    (root / "rpms/b.rpm").unlink()
    os.mkfifo(root / "rpms/b.rpm")


@pytest.mark.parametrize(
    ("change", "path", "problem"),
    [
        (swap, "rpms/a.rpm", "SHA-256"),
        (exchange, "rpms/b.rpm", "SHA-256"),
        (relink, "latest", "target rpms/b.rpm; expected rpms/a.rpm"),
        (link, "rpms/b.rpm", "a link; expected a file"),
        (fifo, "rpms/b.rpm", "neither file, link nor directory"),
        (lambda root: (root / "rpms/a.rpm").write_bytes(b""), "rpms/a.rpm", "0 bytes; expected 9"),
        (lambda root: os.truncate(root / "rpms/a.rpm", 1 << 42), "rpms/a.rpm", f"{1 << 42} bytes; expected 9"),
        (lambda root: (root / "rpms/a.rpm").unlink(), "rpms/a.rpm", "missing"),
        (lambda root: (root / "rpms/c.rpm").write_bytes(b"c"), "rpms/c.rpm", "not expected there"),
        (lambda root: (root / "rpms/a.rpm").chmod(0o4755), "rpms/a.rpm", "mode 4755; expected"),
        (lambda root: (root / "rpms").chmod(0o777), "rpms", "mode 0777; expected"),
    ],
)
def test_what_changed_is_found(made: Path, change: Callable[[Path], object], path: str, problem: str) -> None:
    known = manifest.from_rows(manifest.to_rows(manifest.scan(made)))
    change(made)
    found = {d.path: d.problem for d in manifest.compare(made, known).differences}
    assert problem in found[path]


def test_what_did_not_change_is_not_read_a_second_time(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = manifest.scan(made)
    read: list[Path] = []
    real = manifest.sha256_at

    def recording(path: Path) -> tuple[str, os.stat_result]:
        read.append(path)
        return real(path)

    monkeypatch.setattr(manifest, "sha256_at", recording)
    assert manifest.compare(made, known) == manifest.Comparison((), known)
    assert read == []
    assert manifest.compare(made, known, content=True).differences == ()
    assert len(read) == 2


def test_a_copy_is_read_once_and_known_by_its_new_stamps_then(made: Path, tmp_path: Path) -> None:
    known = manifest.scan(made)
    copy = tmp_path / "copy"
    made.rename(copy)
    (copy / "rpms/a.rpm").write_bytes(b"package a")
    found = manifest.compare(copy, known)
    assert (found.differences, found.moved) == ((), True)
    assert not manifest.compare(copy, found.current).moved


def test_bytes_that_change_behind_an_unchanged_stamp_are_found_when_everything_is_read(made: Path) -> None:
    (made / "rpms/a.rpm").write_bytes(b"package x")
    known = manifest.scan(made)
    lying = {**known, "rpms/a.rpm": manifest.Entry(**{**vars(known["rpms/a.rpm"]), "content": "0" * 64})}
    assert manifest.compare(made, lying).differences == ()
    assert [d.path for d in manifest.compare(made, lying, content=True).differences] == ["rpms/a.rpm"]


@pytest.mark.parametrize("rows", [None, [], {"a": []}, {"a": ["file", "0", "", 0, 0, 0, 0]}, {"a": ["pipe"] + [0] * 6}])
def test_a_manifest_of_another_shape_is_refused(rows: object) -> None:
    with pytest.raises(ValueError, match=r"manifest|valid"):
        manifest.from_rows(rows)


def test_a_sealed_document_reads_back_as_it_was() -> None:
    assert manifest.unseal(manifest.seal({"key": "1", "why": ["ü"]})) == {"key": "1", "why": ["ü"]}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "{}",
        lambda text: "[]",
        lambda text: text[:-10],
        lambda text: text.replace("done", "gone"),
        lambda text: text.replace('"seal"', '"meal"'),
        lambda text: text.replace("{", '{"more": 1,', 1),
    ],
)
def test_a_sealed_document_cannot_be_changed_unseen(change: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        manifest.unseal(change(manifest.seal({"state": "done"})))


def test_a_record_without_end_is_no_record_and_is_not_read_to_its_end(made: Path) -> None:
    manifest.record(made, {})
    os.truncate(made / manifest.RECORD, 1 << 40)
    (found,) = manifest.check(made, {})
    assert found.problem.endswith("expected at most 67108864 bytes, got more")
