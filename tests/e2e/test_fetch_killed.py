"""`fetch` and `pin` killed at any moment: nothing is lost or left running or lying about, and the next run ends well.

The line has everything at once: a pinned SRPM to be proven, a tarball, and a Debian source behind a signed index.
"""

from __future__ import annotations

import fcntl
import hashlib
import random
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core import faults
from pipeline.core.fs import sha256_of
from pipeline.sources.store import Store
from tests.fixtures.badserver import BadServer, good, payload
from tests.fixtures.commandline import ROOT, Ended, Inv
from tests.fixtures.debianarchive import SECURITY, SUITE, Archive
from tests.fixtures.stores import assert_intact
from tests.fixtures.toy import SRPM, TARBALL, Toy, make_toy

ROUNDS = 12
PIECES = 12  # in which the server sends a file
PAUSE = 0.02  # seconds after each of them
FETCHED = ("download", "part_file", "store")  # the modules whose points every fetch passes
POINTS = sorted(
    {
        point
        for module in FETCHED
        for point in re.findall(
            r'faults\.point\("([^"]+)"\)', (ROOT / "pipeline" / "sources" / f"{module}.py").read_text()
        )
    }
)


@dataclass
class Scene:
    """A line with its lock file, the server that has its files, and a command line with an empty store."""

    server: BadServer
    archive: Archive
    toy: Toy
    paths: list[str]
    inv: Inv

    @property
    def lock(self) -> Path:
        """The lock file."""
        return self.toy.line_file.with_name("toy.lock.toml")

    def options(self) -> list[str]:
        return ["--line-file", str(self.toy.line_file), "--debian-mirror", self.archive.url]

    def started(self, verb: str, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        """A run that nobody waits for."""
        return subprocess.Popen(
            self.inv.argv(verb, *words, *self.options()),
            env=self.inv.environment(**variables),
            cwd=self.inv.cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def killed(self, after: float, verb: str, *words: str) -> None:
        """A run that is killed `after` so many seconds; its children must not outlive it."""
        with self.started(verb, *words) as child:
            time.sleep(after)
            child.kill()
        assert self.inv.living() == []
        assert_intact(Store(self.inv.store))

    def complete(self) -> Ended:
        """A run that ends well: everything right in the store, and nothing else anywhere."""
        ended = self.inv("fetch", *self.options())
        assert "3 sources verified" in ended.out
        bodies = [self.server_body(path) for path in self.paths]
        for digest, body in bodies:
            assert (self.inv.store / "sha256" / digest[:2] / digest).read_bytes() == body
        assert {path.name for path in (self.inv.store / "sha256").glob("*/*")} == {digest for digest, _ in bodies}
        self.assert_tidy()
        return ended

    def server_body(self, path: str) -> tuple[str, bytes]:
        """Digest and content of what the server has at `path`."""
        body = self.archive.files[path]
        return hashlib.sha256(body).hexdigest(), body

    def assert_tidy(self) -> None:
        assert_intact(Store(self.inv.store), empty_partial=True)
        assert not (self.inv.store / "bad").exists()
        left = [*self.inv.tmp.iterdir(), *self.inv.home.iterdir()]
        assert [path for path in left if not _is_pythons(path)] == []
        beside = [*self.inv.artifacts.rglob("*"), *self.lock.parent.iterdir()]
        left = [path for path in beside if path.name.startswith((".", "scratch-", "tmp"))]
        # A record that was never finished and is not written again waits for `store gc`.
        assert [path for path in left if path.parent.name != "records"] == []
        assert self.inv.living() == []

    def forget(self) -> None:
        """Everything but the lock file, so that the next round has something to break."""
        shutil.rmtree(self.inv.artifacts, ignore_errors=True)


def _is_pythons(path: Path) -> bool:
    """Whether it is the file by which Python's `tempfile` tries out a directory, gone within microseconds."""
    return bool(re.fullmatch("[a-z0-9_]{8}", path.name)) and path.is_file() and path.read_bytes() in (b"", b"blat")


@pytest.fixture(scope="module")
def pinned_toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    place = tmp_path_factory.mktemp("toy")
    toy = make_toy(place / "toy")
    Inv(place)("pin", "toy", "kernel-srpm", "--line-file", toy.line_file)
    return toy


@pytest.fixture
def scene(pinned_toy: Toy, tmp_path: Path) -> Iterator[Scene]:
    with BadServer() as server:
        archive = Archive(server)
        archive.add(SUITE, "linux", "6.1.9-1", payload(20_000, 9))
        archive.add(SECURITY, "linux", "6.1.10-1", payload(20_000, 10))
        archive.publish()
        directory = shutil.copytree(pinned_toy.line_file.parent, tmp_path / "line")
        debian = archive.write_line(tmp_path / "debian", version="6.1.", accept_older=True)
        shutil.copy(debian.with_name("archive.asc"), directory)
        text = pinned_toy.line_file.read_text().replace(pinned_toy.mirror.as_uri(), server.url())
        tables = re.findall(r"^\[(?:keys|debian|sources)[^\]]*\]\n(?:[^\[].*\n)+", debian.read_text(), re.MULTILINE)
        (directory / "toy.toml").write_text("\n".join([text, *tables]))
        for name in (SRPM, TARBALL):
            archive.files[f"/{name}"] = (pinned_toy.mirror / name).read_bytes()
        paths = [f"/{SRPM}", f"/{TARBALL}", archive.pool(SECURITY, "linux", "6.1.10-1")]
        for path in paths:
            body = archive.files[path]
            server.at(path, good(body, piece=len(body) // PIECES, pause=PAUSE))
        toy = Toy(pinned_toy.mirror, directory / "toy.toml", pinned_toy.tree, pinned_toy.patches, "")
        yield Scene(server, archive, toy, paths, Inv(tmp_path))


def test_a_run_that_nobody_kills_asks_once_for_each_file(scene: Scene) -> None:
    scene.complete()
    assert [scene.server.count(path) for path in scene.paths] == [1, 1, 1]


def test_there_are_points_to_be_killed_at() -> None:
    assert {"download.part-written", "publish.before-rename", "publish.after-rename"} <= set(POINTS)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(scene: Scene, point: str, number: int) -> None:
    """At the first and at the third pass of the point: while one file is there, others may be on their way."""
    with scene.started("fetch", **{faults.VARIABLE: f"{point}:{number}"}) as child:
        _, said = child.communicate(timeout=60)
    assert child.returncode == -9, said.decode()
    assert scene.inv.living() == []
    assert_intact(Store(scene.inv.store))
    scene.complete()


APT, RPM = ("apt-config", "apt-get", "dpkg"), ("gpg", "rpm", "rpmkeys", "rpm2archive")


@pytest.mark.parametrize("program", [*APT, *RPM])
def test_killed_while_it_waits_for(scene: Scene, program: str) -> None:
    """The program kills who started it, and would then go on for ever."""
    stand_in = scene.inv.with_stand_ins({program: "kill -KILL $PPID; exec sleep 1000"})
    with scene.started("fetch", **stand_in) as child:
        _, said = child.communicate(timeout=60)
    assert child.returncode == -9, said.decode()
    assert scene.inv.living() == []
    assert_intact(Store(scene.inv.store))
    scene.inv("store", "verify")
    scene.complete()


@pytest.mark.parametrize("program", RPM)
def test_pin_killed_while_it_waits_for(scene: Scene, program: str) -> None:
    scene.lock.unlink()
    stand_in = scene.inv.with_stand_ins({program: "kill -KILL $PPID; exec sleep 1000"})
    with scene.started("pin", "toy", "kernel-srpm", **stand_in) as child:
        _, said = child.communicate(timeout=60)
    assert child.returncode == -9, said.decode()
    assert scene.inv.living() == [] and not scene.lock.exists()
    scene.inv("pin", "toy", "kernel-srpm", *scene.options())
    scene.complete()


@pytest.mark.parametrize("seed", range(ROUNDS // 3))
def test_killed_at_random_moments(scene: Scene, seed: int) -> None:
    """The killing goes on where the last one stopped, until a run is let through."""
    moments = random.Random(seed)
    begun = time.monotonic()
    scene.complete()
    whole = time.monotonic() - begun
    scene.forget()
    for _ in range(3):
        scene.killed(moments.uniform(0.1, 1.0) * whole, "fetch")
    scene.complete()
    scene.inv("store", "gc")
    scene.complete()
    assert [path for path in scene.inv.store.rglob("*") if path.name.startswith(".")] == []


@pytest.mark.parametrize("part", [0.5, 0.7, 0.9])
def test_pin_killed_at_any_moment_leaves_a_whole_lock_file_or_none(scene: Scene, part: float) -> None:
    lock = scene.lock
    lock.unlink()
    begun = time.monotonic()
    scene.inv("pin", "toy", "kernel-srpm", *scene.options())
    whole = time.monotonic() - begun
    lock.unlink()
    scene.forget()
    scene.killed(part * whole, "pin", "toy", "kernel-srpm")
    if lock.exists():
        assert tomllib.loads(lock.read_text())["kernel-srpm"]["sha256"] == scene.server_body(f"/{SRPM}")[0]
    scene.inv("pin", "toy", "kernel-srpm", *scene.options())
    scene.complete()
    assert {path.name for path in lock.parent.iterdir()} == {
        "archive.asc",
        "toy-key.asc",
        "toy.tree.xz",
        "toy.toml",
        "toy.lock.toml",
    }


def test_what_a_killed_write_left_is_removed_and_what_another_run_writes_is_not(scene: Scene) -> None:
    left, in_use = (scene.lock.with_name(f".{scene.lock.name}.{name}") for name in ("abcdefgh", "ijklmnop"))
    left.write_text("half a lo")
    with in_use.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        scene.inv("pin", "toy", "kernel-srpm", *scene.options())
        assert not left.exists() and in_use.exists()


def test_two_at_once_both_succeed_with_one_download_per_file(scene: Scene) -> None:
    with scene.started("fetch") as first, scene.started("fetch") as second:
        for child in (first, second):
            _, said = child.communicate(timeout=60)
            assert child.returncode == 0, said.decode()
    assert [scene.server.count(path) for path in scene.paths] == [1, 1, 1]
    scene.complete()
    assert [scene.server.count(path) for path in scene.paths] == [1, 1, 1]


def test_of_two_at_once_one_is_killed_and_the_other_succeeds(scene: Scene) -> None:
    with scene.started("fetch") as first, scene.started("fetch") as second:
        until = time.monotonic() + 60
        while not any(scene.server.count(path) for path in scene.paths) and time.monotonic() < until:
            time.sleep(0.005)
        first.kill()
        _, said = second.communicate(timeout=60)
        assert second.returncode == 0, said.decode()
    scene.complete()
    assert sha256_of(scene.toy.mirror / SRPM) in {p.name for p in (scene.inv.store / "sha256").glob("*/*")}
