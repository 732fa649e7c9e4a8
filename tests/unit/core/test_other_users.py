"""Other users of the host can neither hold us up nor change what is ours: in a shared /tmp, and below the artifacts."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.core import artifacts, fs, locks, safe_open, temporary
from pipeline.core.locks import is_held, locked
from pipeline.errors import ExitCode, HostLacks
from tests.fixtures.commandline import ROOT, Inv
from tests.fixtures.plainuser import give_away

LIMIT = 20  # seconds after which something that waits for another user is ended


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """Ends a test that another user holds up."""

    def ring(*_: object) -> None:
        raise AssertionError("another user held us up")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files that everybody may write, as /tmp is."""
    with tempfile.TemporaryDirectory(prefix="s-") as name:
        Path(name).chmod(0o1777)
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr("tempfile.tempdir", name)
        yield Path(name)


def pipe(place: Path) -> None:
    os.mkfifo(place, 0o666)


def link(place: Path) -> None:
    place.symlink_to("/etc")


def theirs(place: Path) -> None:
    place.mkdir(mode=0o777)
    give_away(place)


def open_to_all(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)


TRAPS: tuple[Callable[[Path], None], ...] = (pipe, link, theirs, open_to_all)


@pytest.mark.parametrize("trap", TRAPS)
def test_temporary_files_go_elsewhere_where_our_name_is_taken(shared: Path, trap: Callable[[Path], None]) -> None:
    taken = [shared / f"lvs-fullnat-{os.geteuid()}{suffix}" for suffix in ("", "-aaaaaaaa")]
    for place in taken:
        trap(place)
    before = sorted(Path("/etc").iterdir())
    with (
        temporary.use_run_directory(),
        temporary.scratch("home-") as directory,
        temporary.socket_directory("lab-", 30) as sockets,
    ):
        for place in (directory, sockets):
            below = place.relative_to(shared)
            assert shared / below.parts[0] not in taken
            assert (
                stat.S_IMODE((shared / below.parts[0]).lstat().st_mode) == stat.S_IMODE(place.stat().st_mode) == 0o700
            )
            assert str(place).startswith(os.environ["TMPDIR"])
    assert sorted(shared.iterdir()) == sorted(taken), "all of ours is gone"
    assert sorted(Path("/etc").iterdir()) == before


def test_a_directory_that_was_taken_instead_is_used_again(shared: Path) -> None:
    theirs(shared / f"lvs-fullnat-{os.geteuid()}")
    with temporary.scratch("a-") as one, temporary.scratch("b-") as other:
        assert one.parent == other.parent


def test_a_temporary_directory_in_which_anybody_may_rename_is_refused(shared: Path) -> None:
    shared.chmod(0o777)
    with pytest.raises(HostLacks, match="expected the sticky bit, got mode 777") as caught, temporary.scratch("a-"):
        pass
    assert caught.value.hint.startswith(f"chmod +t {shared}")


@pytest.mark.parametrize("trap", TRAPS)
def test_leftovers_of_others_neither_stop_us_nor_are_removed(tmp_path: Path, trap: Callable[[Path], None]) -> None:
    trap(tmp_path / "new-aaaaaaaa")
    trap(tmp_path / ".file.aaaaaaaa")
    with fs.scratch(tmp_path, "new-"):
        fs.write_atomic(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text() == "whole"
    if trap is not open_to_all:  # as a killed run of ours leaves it
        assert os.path.lexists(tmp_path / "new-aaaaaaaa")
    assert os.path.lexists(tmp_path / ".file.aaaaaaaa")


def test_nobody_can_lock_the_place_of_our_leftovers(tmp_path: Path) -> None:
    """A lock on the directory itself, which anybody may take who can read it."""
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with fs.scratch(tmp_path) as made:
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    os.close(handle)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_lock_is_a_file_that_others_cannot_open(tmp_path: Path, umask: int) -> None:
    old = tmp_path / "old"
    old.touch(0o644)
    before = os.umask(umask)
    try:
        for path in (tmp_path / "new", old):
            with locked(path):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert is_held(path)
    finally:
        os.umask(before)


@pytest.mark.parametrize("trap", [pipe, link, theirs])
@pytest.mark.parametrize("take", [lambda path: locked(path).__enter__(), lambda path: locks.is_held(path)])
def test_a_trap_in_a_locks_place_is_refused_at_once(
    tmp_path: Path, trap: Callable[[Path], None], take: Callable[[Path], object]
) -> None:
    trap(tmp_path / "lock")
    try:
        assert take(tmp_path / "lock") is False
    except (HostLacks, OSError) as error:
        assert "lock" in str(error)


def test_another_users_held_lock_is_seen_without_opening_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    with locked(tmp_path / "lock"):
        monkeypatch.setattr(safe_open, "file", forbidden)
        assert is_held(tmp_path / "lock")
    assert not is_held(tmp_path / "lock")


# --- The artifacts ---------------------------------------------------------------------------------------


def their_link(place: Path) -> None:
    place.with_name("real").mkdir()
    place.symlink_to(place.with_name("real"))
    give_away(place)


def sticky(place: Path) -> None:
    place.mkdir()
    place.chmod(0o1777)


def our_link(place: Path) -> None:
    place.with_name("real").mkdir()
    place.symlink_to(place.with_name("real"))


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (theirs, "got one of user {}"),
        (their_link, "got a link of user {}"),
        (open_to_all, "got mode 777"),
        (sticky, "got mode 1777"),
    ],
)
def test_artifacts_that_others_can_change_are_refused(tmp_path: Path, make: Callable[[Path], None], got: str) -> None:
    inv = Inv(tmp_path)
    make(inv.artifacts)
    got = got.format(inv.artifacts.lstat().st_uid)
    ended = inv("clean", "failed", "--json", expect=ExitCode.HOST)
    assert got in ended.json["what"] and ended.json["where"] == str(inv.artifacts)
    assert any(command in ended.json["next"] for command in ("chown", "chmod", "--artifacts"))
    inv("lines"), inv("status")
    finding = next(
        row for row in inv("doctor", "--json", "--offline", expect=ExitCode.HOST).json if row["name"] == "artifacts"
    )
    assert got in finding["found"]


@pytest.mark.parametrize("make", [our_link, Path.mkdir, lambda place: None, lambda place: place.mkdir(mode=0o700)])
def test_artifacts_that_are_ours_are_used_wherever_they_lie(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "artifacts")
    artifacts.check(tmp_path / "artifacts")


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_run_makes_files_that_others_may_read_and_not_write_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    inv = Inv(tmp_path)
    argv = inv.argv("store", "verify")
    subprocess.run(argv, cwd=inv.cwd, env=inv.environment(), umask=umask, check=True, capture_output=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (inv.artifacts, *inv.artifacts.rglob("*"))}
    assert modes == {"artifacts": 0o755, "store": 0o755, "locks": 0o755, "store.lock": 0o600}


KILLED = """
import os, signal
from pipeline.core import temporary
with temporary.use_run_directory(), temporary.scratch("home-") as home, temporary.socket_directory("lab-", 30):
    (home / "secret").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_is_gone_after_the_next_in_whichever_place(shared: Path) -> None:
    for trap in (None, theirs):  # the second time the usual name is taken
        if trap:
            trap(shared / f"lvs-fullnat-{os.geteuid()}")
        ended = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, check=False)
        assert ended.returncode == -signal.SIGKILL
        assert [path.name for path in shared.rglob("secret")] == ["secret"]
        with temporary.use_run_directory():
            assert list(shared.rglob("secret")) == []
    assert [path.name for path in shared.iterdir()] == [f"lvs-fullnat-{os.geteuid()}"], "theirs"
