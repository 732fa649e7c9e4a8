"""Killed runs: what they left is gone once the next run has looked, and what is in use stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.commands import leftovers
from pipeline.core import cache, fs, process, temporary
from pipeline.publish import signing
from tests.fixtures.built import Built
from tests.fixtures.commandline import ROOT, Inv
from tests.fixtures.rpms import rpm, shared_keys

PLACES = ("images/debian12", "lab/guests", "lab/kernels", "trees", "repo/el6", "keys", "scratch")
PREFIXES = {"repo/el6": ".making-", "keys": ".home-", "scratch": "series-"}

HOLDER = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from pipeline.core import fs
with ExitStack() as held:
    for place, prefix in zip(sys.argv[1::2], sys.argv[2::2]):
        made = held.enter_context(fs.scratch(Path(place), prefix))
        (made / "rootfs").mkdir()
        (made / "rootfs").chmod(0o555)
    print("made", flush=True)
    time.sleep(600)
"""


@contextmanager
def making(artifacts: Path) -> Iterator[subprocess.Popen[str]]:
    """Another run in the middle of making something in every place; killed at the end."""
    words = [word for place in PLACES for word in (str(artifacts / place), PREFIXES.get(place, ".new-"))]
    argv = [sys.executable, "-c", HOLDER, *words]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "made\n"
        try:
            yield child
        finally:
            child.kill()


def left(artifacts: Path) -> set[str]:
    return {str(path.relative_to(artifacts).parent) for path in artifacts.rglob("rootfs")}


def test_what_is_being_made_stays_and_goes_after_a_kill(tmp_path: Path) -> None:
    with making(tmp_path):
        leftovers.remove(tmp_path)
        assert len(left(tmp_path)) == len(PLACES)
    leftovers.remove(tmp_path)
    assert left(tmp_path) == set()
    assert {path.name for place in PLACES for path in (tmp_path / place).iterdir()} == set()


def test_a_killed_steps_work_goes_and_neither_results_nor_failures_do(tmp_path: Path) -> None:
    built = Built(tmp_path)
    kept = [built.step("ipvsadm", "one"), built.fails("kernel:stock")]
    dead = built.dies("keepalived")
    (tmp_path / "steps/lts61/ipvsadm/.old-a").mkdir()
    with files_locked(dead.parent):
        leftovers.remove(tmp_path)
        assert dead.is_dir()
    leftovers.remove(tmp_path)
    assert not dead.exists() and not (tmp_path / "steps/lts61/ipvsadm/.old-a").exists()
    assert all(path.is_dir() for path in kept)


@contextmanager
def files_locked(step: Path) -> Iterator[None]:
    from pipeline.core.locks import locked

    with locked(step / "lock"):
        yield


SMOKE = """
import sys, time
from pathlib import Path
from pipeline.core import temporary
from pipeline.core import cache
from pipeline.lab.vm.network import Accelerator, running_lab
def fill(into):
    (into / "initramfs").write_bytes(b"half")
    print("begun", flush=True)
    time.sleep(600)
place = Path(sys.argv[1])
with temporary.use_run_directory(), running_lab(place / "reports", Accelerator("tcg", "")) as running:
    running.add_segment("front")
    cache.ensure(place / "lab" / "guests" / "key", fill)
"""


def test_a_killed_smoke_leaves_nothing_in_guests_and_no_socket(inv: Inv) -> None:
    argv = [sys.executable, "-c", SMOKE, str(inv.artifacts)]
    with process.start(argv, env=inv.environment(), cwd=ROOT) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        assert [path for path in inv.tmp.rglob("*") if path.is_socket()]
        child.kill()
        child.wait()
    assert [path for path in inv.artifacts.rglob("*") if path.is_socket()] == []
    inv("store", "verify")  # any run sweeps its temporary files
    assert list(inv.tmp.iterdir()) == []
    leftovers.remove(inv.artifacts)
    assert [path.name for path in (inv.artifacts / "lab" / "guests").iterdir()] == [cache.LOCK]


SIGN = """
import sys
from pathlib import Path
from pipeline.core import temporary
from pipeline.publish import signing
with temporary.use_run_directory(), signing.open_signer("", Path(sys.argv[1])) as signer:
    print("begun", flush=True)
    for number in range(1000):
        signer.sign([Path(sys.argv[2])], Path(sys.argv[3]) / str(number))
"""


@pytest.mark.parametrize("after", [0.0, 0.1, 0.25])
def test_signing_killed_at_any_time_leaves_nothing_once_the_next_run_has_looked(
    inv: Inv, tmp_path: Path, after: float
) -> None:
    keys, package = tmp_path / "artifacts" / "keys", rpm("ipvsadm")
    with signing.open_signer("", shared_keys()):
        pass
    keys.mkdir(mode=0o700, parents=True)
    process.run(["cp", "-a", shared_keys() / "development", keys])
    (tmp_path / "signed").mkdir()
    argv = [sys.executable, "-c", SIGN, str(keys), str(package), str(tmp_path / "signed")]
    with process.start(argv, env=inv.environment(), cwd=ROOT) as child:
        assert child.stdout is not None and child.stdout.readline() == b"begun\n"
        time.sleep(after)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert list(keys.glob(".home-*"))
    until = time.monotonic() + 60  # a program that was just being started holds what we had open until it begins
    while [path.name for path in keys.iterdir()] != ["development"] and time.monotonic() < until:
        leftovers.remove(keys.parent)
    assert [path.name for path in keys.iterdir()] == ["development"]
    with temporary.use_run_directory(), fs.scratch(tmp_path / "work"):
        pass
    assert list(inv.tmp.iterdir()) == []
