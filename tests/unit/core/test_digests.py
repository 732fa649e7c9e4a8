"""The table of digests: each file is read once while it is as it was, and results come in order."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.digests import Digests, together


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_and_its_hard_links_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, link, table = tmp_path / "a", tmp_path / "b", Digests()
    file.write_bytes(b"content")
    link.hardlink_to(file)
    real, read = hashlib.file_digest, []

    def counted(stream: Any, name: str) -> Any:
        read.append(name)
        return real(stream, name)

    monkeypatch.setattr("pipeline.core.digests.hashlib.file_digest", counted)
    assert {result() for result in together(table.sha256_of, [file, link, file])} == {sha256(b"content")}
    assert len(read) == 1


def test_a_file_that_was_written_to_or_replaced_is_read_anew(tmp_path: Path) -> None:
    file, other, table = tmp_path / "a", tmp_path / "b", Digests()
    file.write_bytes(b"before")
    table.sha256_of(file)
    file.write_bytes(b"behind")
    os.utime(file, ns=(1, 1))  # as somebody does who hides a change
    assert table.sha256_of(file) == sha256(b"behind")
    other.write_bytes(b"placed")
    other.replace(file)
    assert table.sha256_of(file) == sha256(b"placed")


def test_results_come_in_order_and_what_one_raises_is_its_own() -> None:
    def half(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number // 2

    even, odd, last = together(half, [4, 5, 6])
    assert (even(), last()) == (2, 3)
    with pytest.raises(ValueError, match="5"):
        odd()


def test_work_that_has_not_begun_when_the_caller_stops_is_not_done() -> None:
    begun, go_on = [], threading.Event()

    def wait(number: int) -> None:
        begun.append(number)
        go_on.wait()

    results = together(wait, range(1000))
    next(results)
    threading.Timer(0.1, go_on.set).start()
    results.close()
    assert len(begun) < 1000
