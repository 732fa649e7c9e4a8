"""Every runtime gives the same inside and the same limits, and nothing outlives whoever started it."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import faults, manifest, process
from pipeline.errors import HostLacks, Refused
from pipeline.host.engines import Engine
from pipeline.sandbox import supervisor
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.container import ContainerEngine
from pipeline.sandbox.images import Image
from pipeline.sandbox.runtime import (
    End,
    Ended,
    Job,
    Limits,
    Mount,
    Runtime,
    build_group,
    build_user,
    give,
    take_back,
)
from tests.fixtures.commandline import ROOT
from tests.fixtures.dockerd import Dockerd
from tests.fixtures.onejob import runtime_at
from tests.fixtures.rootfs import busybox_image, record, use_dash

ENGINE = pytest.mark.xdist_group("dockerd")  # one engine, in one worker
BOTH = [pytest.param("bubblewrap", marks=pytest.mark.xdist_group("bubblewrap")), pytest.param("docker", marks=ENGINE)]
DEATH = 15.0  # seconds for everything of a killed run to be gone, on a busy machine


@dataclass
class Bench:
    """A runtime, an image, and a directory that jobs may write to as /build."""

    runtime: Runtime
    address: str
    image: Image
    place: Path

    @property
    def build(self) -> Path:
        """What jobs see as /build."""
        return self.place / "build"

    @property
    def log(self) -> Path:
        """Where every job's output goes."""
        return self.place / "log"

    @property
    def text(self) -> str:
        """The log."""
        return self.log.read_text(errors="backslashreplace")

    def job(self, script: str, limits: Limits | None = None, **more: Any) -> Job:
        """A job that runs `script`."""
        mounts = (Mount(self.build, "/build", writable=True),)
        return Job(
            self.image, ("/bin/sh", "-c", script), self.log, mounts, limits=limits or Limits(free=0, wall=60), **more
        )

    def run(self, script: str, **limits: Any) -> Ended:
        """Runs it, with other limits."""
        self.log.unlink(missing_ok=True)
        return self.runtime.run(self.job(script, replace(Limits(free=0, wall=60), **limits)))


@pytest.fixture(scope="module")
def toy() -> Iterator[Image]:
    with _place() as place:
        yield busybox_image(place / "toy")


@pytest.fixture(scope="module")
def small_disk() -> Iterator[Path]:
    """A file system of 4 MiB."""
    with _place() as disk:
        process.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=1777", "none", disk])
        try:
            yield disk
        finally:
            process.run(["umount", "--lazy", disk])


@pytest.fixture(scope="module")
def dockerd(small_disk: Path) -> Iterator[Dockerd]:  # in whose mount namespace the disk must be, too
    with Dockerd.running() as engine:
        yield engine


@contextlib.contextmanager
def _place() -> Iterator[Path]:
    """A directory that the build user can reach, as below pytest's own it could not."""
    place = Path(tempfile.mkdtemp(prefix="fnat-"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def runtimes() -> dict[str, tuple[Runtime, str]]:
    return {}


def bench_of(kind: str, request: pytest.FixtureRequest, place: Path) -> Bench:
    """A bench of the runtime `kind`, which has proven its isolation once per module."""
    known: dict[str, tuple[Runtime, str]] = request.getfixturevalue("runtimes")
    if kind not in known:
        address = request.getfixturevalue("dockerd").address if kind == "docker" else "bubblewrap"
        known[kind] = runtime_at(address), address
    (place / "build").mkdir(exist_ok=True)
    give(place / "build")
    return Bench(*known[kind], request.getfixturevalue("toy"), place)


@pytest.fixture(params=BOTH)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with _place() as place:
        yield bench_of(request.param, request, place)


@pytest.fixture
def docker_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with _place() as place:
        yield bench_of("docker", request, place)


def living(token: str) -> list[str]:
    """The command lines, of processes other than this one, that have `token` in them."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if token in line and int(directory.name) != os.getpid():
                found.append(f"{directory.name}: {line}")
    return found


def wait_until_dead(token: str) -> None:
    """Nothing with `token` in its command line is left, in a while."""
    until = time.monotonic() + DEATH
    while (found := living(token)) and time.monotonic() < until:
        time.sleep(0.05)
    assert found == []


# --- Inside --------------------------------------------------------------------------------------------

INSIDE = """
id -u; id -g; hostname; pwd
grep -E '^(Cap|NoNewPrivs)' /proc/self/status | tr -d '\\t'
sed -n 's/^ *\\([^:]*\\):.*/\\1/p' /proc/net/dev
for place in / /bin /etc /input; do touch $place/x 2>/dev/null && echo "can write to $place"; done
for place in /tmp /run /var/tmp /build; do
  printf '#!/bin/sh\\necho runs from %s\\n' $place > $place/x && chmod +x $place/x && $place/x
done
ulimit -c; ulimit -f
"""


def test_inside_is_the_same(bench: Bench) -> None:
    assert bench.run(INSIDE, file=1 << 20).good, bench.text
    assert bench.text.splitlines() == [
        str(build_user()),
        str(build_group()),
        "builder",
        "/build",
        *(f"Cap{kind}:0000000000000000" for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")),
        "NoNewPrivs:1",
        "lo",
        *(f"runs from {place}" for place in ("/tmp", "/run", "/var/tmp", "/build")),
        "0",
        "2048",  # blocks of 512 bytes
    ]


def test_the_environment_is_what_was_given_and_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of ours")
    job = replace(bench.job(""), argv=("env",), environment={"GIVEN": "a b\n$c"})
    assert bench.runtime.run(job).good
    assert bench.text == "GIVEN=a b\n$c\nHOME=/tmp\nPATH=/usr/bin:/bin:/usr/sbin:/sbin\n"


def test_a_mount_that_is_not_writable_is_not(bench: Bench) -> None:
    source = bench.place / "input"
    source.mkdir()
    (source / "file").write_text("content\n")
    give(source)
    job = bench.job("cat /input/file; echo x > /input/file")
    assert bench.runtime.run(replace(job, mounts=(*job.mounts, Mount(source, "/input")))).status == 1
    assert bench.text.startswith("content\n")
    assert (source / "file").read_text() == "content\n"


def test_a_mount_of_what_is_not_there_is_an_error_and_makes_nothing(bench: Bench) -> None:
    job = replace(bench.job("true"), mounts=(Mount(bench.place / "missing", "/input"),))
    with contextlib.suppress(HostLacks):
        assert not bench.runtime.run(job).good
    assert not (bench.place / "missing").exists()


def test_a_job_reaches_no_network_not_even_ours(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0fnat-test")
        abstract.listen()
        port = server.getsockname()[1]
        script = f"for where in 127.0.0.1 192.0.2.1; do nc -w 2 $where {port} </dev/null || echo no $where; done"
        bench.run(f"{script}; cat /proc/net/unix | grep -c fnat-test")
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert "no 127.0.0.1" in bench.text and "no 192.0.2.1" in bench.text and "\n0\n" in bench.text


def test_output_belongs_to_the_build_user_and_then_to_us(bench: Bench) -> None:
    assert bench.run("mkdir d; echo x > d/file; ln -s /etc/passwd d/link").good
    made = [bench.build / "d", bench.build / "d/file", bench.build / "d/link"]
    assert {(p.lstat().st_uid, p.lstat().st_gid) for p in made} == {(build_user(), build_group())}
    before = Path("/etc/passwd").stat()
    take_back(bench.build)
    assert {p.lstat().st_uid for p in made} == {os.geteuid()}
    assert Path("/etc/passwd").stat() == before


@ENGINE
def test_both_runtimes_make_the_same_bytes(request: pytest.FixtureRequest) -> None:
    script = "echo text > a; touch -d @0 a; tar c a > b; (id -u; id -g; env; hostname; pwd; umask; ls -la /build/a) > c"
    made = []
    for kind in ("bubblewrap", "docker"):
        with _place() as place:
            bench = bench_of(kind, request, place)
            assert bench.run(script).good, bench.text
            made.append({path.name: path.read_bytes() for path in bench.build.iterdir()})
    assert made[0] == made[1]
    assert sorted(made[0]) == ["a", "b", "c"]


@pytest.mark.xdist_group("bubblewrap")
def test_a_place_that_only_root_may_pass_through_is_no_hindrance(request: pytest.FixtureRequest) -> None:
    with _place() as place:
        bench = bench_of("bubblewrap", request, place)
        image = busybox_image(place / "image", key="behind a wall")
        place.chmod(0o700)
        job = replace(bench.job("id -u; echo made > file; cat file; sleep 0.2; exit 4"), image=image)
        assert Bubblewrap().run(job) == Ended(End.EXIT, 4), bench.text
        assert bench.text == f"{build_user()}\nmade\n"
        job = bench.job(f": {place}; sleep 4252", Limits(wall=0.5, free=0))
        assert Bubblewrap().run(replace(job, image=image)) == Ended(End.WALL, -9)
        assert living(f": {place}") == []
        assert not any(str(place) in row for row in Path("/proc/self/mounts").read_text().splitlines())


# --- The log and the end -------------------------------------------------------------------------------


def test_a_line_is_in_the_log_while_the_job_runs(bench: Bench) -> None:
    ended: list[Ended] = []
    script = "echo first; echo second >&2; while [ ! -e go ]; do sleep 0.05; done; echo last"
    thread = threading.Thread(target=lambda: ended.append(bench.run(script, wall=60)))
    thread.start()
    until = time.monotonic() + 30
    while not (bench.log.exists() and "second" in bench.text) and time.monotonic() < until:
        time.sleep(0.02)
    assert bench.text == "first\nsecond\n"
    (bench.build / "go").touch()
    thread.join()
    assert ended == [Ended(End.EXIT, 0)]
    assert bench.text == "first\nsecond\nlast\n"


def test_a_log_may_be_named_from_the_working_directory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.place)
    assert bench.runtime.run(replace(bench.job("echo said"), log=Path("log"))).good
    assert bench.text == "said\n"


def test_a_log_is_appended_to_and_nothing_of_it_is_lost(bench: Bench) -> None:
    bench.log.write_text("begun\n")
    assert bench.runtime.run(bench.job("seq 200000; printf 'no newline'")).good
    assert bench.text == "begun\n" + "".join(f"{n}\n" for n in range(1, 200001)) + "no newline"


@pytest.mark.parametrize(
    ("script", "status"), [("true", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", -9), ("kill -SEGV $$", -11)]
)
def test_the_exit_status_is_told(bench: Bench, script: str, status: int) -> None:
    assert bench.run(script) == Ended(End.EXIT, status)


def test_a_program_that_is_not_there_is_told(bench: Bench) -> None:
    assert bench.runtime.run(replace(bench.job(""), argv=("no-such-program",))) == Ended(End.EXIT, 127)
    assert "no-such-program" in bench.text


def test_nothing_of_a_job_outlives_its_end(bench: Bench) -> None:
    """Many processes, whose ending takes the kernel a while."""
    one = f"setsid sh -c ': {bench.place}; sleep 60' >/dev/null 2>&1 &"
    for _ in range(3):
        assert bench.run(f"for n in $(seq 200); do {one} done; sleep 0.1; exit 0").good, bench.text
        assert living(f": {bench.place}") == []


# --- Limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "limits", "reason"),
    [
        ("trap '' TERM; while :; do echo on; sleep 0.1; done", {"wall": 1.5}, End.WALL),
        ("echo said; sleep 4244", {"idle": 1.5}, End.IDLE),
        ("yes", {"log": 1 << 20}, End.LOG),
    ],
)
def test_a_job_ends_at_its_limit(bench: Bench, script: str, limits: dict[str, Any], reason: End) -> None:
    begun = time.monotonic()
    assert bench.run(f": {bench.place}; {script}", **limits) == Ended(reason, -9)
    assert time.monotonic() - begun < 10
    assert living(f": {bench.place}") == []
    assert bench.log.stat().st_size < 8 << 20


def test_a_fork_bomb_is_held_and_ended(bench: Bench) -> None:
    """One that would stop at 400, so that a limit that fails does no harm."""
    bomb = f": {bench.place}; for n in $(seq 400); do sh -c ': {bench.place}; sleep 60' & done; exit 0"
    assert not bench.run(bomb, processes=60).good
    assert "fork" in bench.text
    assert living(f": {bench.place}") == []


def test_a_job_that_wants_all_memory_gets_its_own_limit(bench: Bench) -> None:
    ended = bench.run("head -c 1024m /dev/zero | tail; echo $?; exit 5", memory=64 << 20)
    assert ended == Ended(End.MEMORY if bench.address != "bubblewrap" else End.EXIT, 5)


def test_a_job_that_had_enough_memory_is_not_said_to_lack_it(bench: Bench) -> None:
    assert bench.run("exit 5", memory=64 << 20) == Ended(End.EXIT, 5)


def test_a_file_cannot_grow_without_end(bench: Bench) -> None:
    assert not bench.run("head -c 64m /dev/zero > big", file=1 << 20).good
    assert (bench.build / "big").stat().st_size == 1 << 20


def test_a_disk_that_fills_up_ends_the_job(bench: Bench, small_disk: Path) -> None:
    job = bench.job("cat /dev/zero > big; sleep 60", Limits(free=1 << 20, wall=30))
    begun = time.monotonic()
    ended = bench.runtime.run(replace(job, mounts=(Mount(small_disk, "/build", writable=True),)))
    (small_disk / "big").unlink()
    assert ended.reason is End.DISK
    assert time.monotonic() - begun < 10


def test_a_log_that_cannot_be_written_ends_the_job(bench: Bench, small_disk: Path) -> None:
    ended = bench.runtime.run(replace(bench.job("yes"), log=small_disk / "log"))
    (small_disk / "log").unlink()
    assert ended.reason is End.DISK


# --- Our death -----------------------------------------------------------------------------------------


def started(bench: Bench, script: str, **variables: str) -> subprocess.Popen[bytes]:
    """A process that runs the script as a job."""
    words = [sys.executable, "-m", "tests.fixtures.onejob", bench.address, str(bench.image.rootfs.parent), script]
    env = process.clean_environment(PYTHONPATH=str(ROOT), **variables)
    return subprocess.Popen(words, env=env, cwd=ROOT, stderr=subprocess.DEVNULL)


def left_of(bench: Bench) -> list[Any]:
    """Containers of the test's engine."""
    return bench.runtime.api.containers(all=True) if isinstance(bench.runtime, ContainerEngine) else []


def wait_until_removed(bench: Bench) -> None:
    """No container is left, but those that never ran, which the next run reaps."""
    until = time.monotonic() + DEATH
    while (found := [c for c in left_of(bench) if c["State"] != "created"]) and time.monotonic() < until:
        time.sleep(0.05)
    assert found == []


def test_sigkill_of_the_caller_at_any_moment_leaves_nothing(bench: Bench) -> None:
    chance = random.Random(20120621)
    for number in range(8):
        token = f"{bench.place}-{number}"
        with started(bench, f": {token}; (setsid sleep 4245 &) ; sleep 4245") as caller:
            time.sleep(0.35 + chance.random() * (0.25 if bench.address == "bubblewrap" else 1.2))
            caller.kill()
        wait_until_dead(token)
    wait_until_removed(bench)
    bench.runtime.reap()
    assert left_of(bench) == []
    assert living(str(bench.place)) == []


@pytest.mark.xdist_group("bubblewrap")
def test_sigkill_while_bubblewrap_begins_leaves_nothing(request: pytest.FixtureRequest) -> None:
    """The 40 ms in which bubblewrap does not tell its own children of its death."""
    with _place() as place:
        bench = bench_of("bubblewrap", request, place)
        assert isinstance(bench.runtime, Bubblewrap)
        bench.run("true")
        for number in range(40):
            token = f"{place}-{number}"
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    bench.run(f": {token}; sleep 4246")
                os._exit(0)
            time.sleep(number / 1000)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        time.sleep(0.5)
        bench.runtime.reap()
        wait_until_dead(str(place))


@ENGINE
@pytest.mark.parametrize("point", ["engine.created", "engine.started", "engine.image-imported"])
def test_sigkill_between_two_steps_leaves_nothing_that_is_not_reaped(docker_bench: Bench, point: str) -> None:
    if point == "engine.image-imported":
        docker_bench.runtime.api.remove_image(docker_bench.runtime.tag(docker_bench.image), force=True)  # type: ignore[attr-defined]
        docker_bench.runtime._proven.clear()  # type: ignore[attr-defined]
    with started(docker_bench, ": token-4247; sleep 4247", **{faults.VARIABLE: point}) as caller:
        assert caller.wait(60) == -signal.SIGKILL
    wait_until_dead("token-4247")
    wait_until_removed(docker_bench)
    left = len(left_of(docker_bench))
    assert left == (1 if point == "engine.created" else 0)
    assert len(docker_bench.runtime.reap()) == left
    assert left_of(docker_bench) == []
    assert docker_bench.run("true").good


def test_reaping_spares_what_a_living_run_owns(bench: Bench) -> None:
    thread = threading.Thread(target=lambda: bench.run("touch begun; sleep 2; touch ended"))
    thread.start()
    until = time.monotonic() + 30
    while not (bench.build / "begun").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert bench.runtime.reap() == []
    thread.join()
    assert (bench.build / "ended").exists()


def forged() -> list[bytes]:
    """Labels of dead owners, and of what no owner is."""
    boot, namespace, pid, _ = supervisor.owner().split(":")
    mark = f"{supervisor.LABEL}=".encode()
    labels = (f"{boot}:{namespace}:{pid}:1:t", "another:1:2:3:t", f"{boot}:{namespace}:none:1:t", f"{boot}:::1:t")
    return [*(mark + label.encode() for label in labels), mark + b"\xff::::"]


def test_a_job_that_says_of_its_processes_what_a_supervisor_says_stands_in_no_runs_way(bench: Bench) -> None:
    words = " ".join(f"\"$(printf '{label.decode(errors='backslashreplace')}')\"" for label in forged())
    script = f"for label in {words}; do sh -c 'sleep 2; touch lived-$$' sh $label & done; touch begun; wait"
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(bench.run(script)))
    thread.start()
    until = time.monotonic() + 30
    while not (bench.build / "begun").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert bench.runtime.reap() == []
    thread.join()
    assert ended[0].good and len([*bench.build.glob("lived-*")]) == len(forged()), bench.text


def test_another_users_process_that_says_the_same_is_no_supervisor() -> None:
    user = ["setpriv", f"--reuid={build_user() + 1}", "--clear-groups", "sh", "-c", "sleep 60; true", "sh"]
    with contextlib.ExitStack() as held:
        others = [held.enter_context(subprocess.Popen([*user, label])) for label in forged()]
        until = time.monotonic() + 30
        while sum(b"sleep" in Path(f"/proc/{p.pid}/cmdline").read_bytes()[:20] for p in others) < len(others):
            assert time.monotonic() < until
        found, alive = supervisor.kill(supervisor.is_dead), [other.poll() is None for other in others]
        for other in others:
            other.kill()
        assert found == [] and all(alive)


def test_an_owner_is_dead_only_when_that_is_certain() -> None:
    boot, namespace, pid, start = supervisor.owner().split(":")
    assert not supervisor.is_dead(supervisor.owner())
    assert supervisor.is_dead(f"{boot}:{namespace}:{pid}:1")  # another process had the id
    assert supervisor.is_dead(f"another boot:{namespace}:{pid}:{start}")
    assert not supervisor.is_dead(f"{boot}:1:{pid}:1")  # of another namespace of processes: nobody here knows


# --- Engines that fail ---------------------------------------------------------------------------------


@ENGINE
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_engine_that_stops_in_mid_job_is_told_within_seconds(toy: Image, number: int) -> None:
    with _place() as place, Dockerd.running() as engine:
        (place / "build").mkdir()
        give(place / "build")
        bench = Bench(runtime_at(engine.address), engine.address, toy, place)

        def stop() -> None:
            _wait_for(place / "build/begun")
            engine.signal(number)

        stopper = threading.Thread(target=stop)
        stopper.start()
        ended = bench.run(f": {place}; sleep 1; touch begun; sleep 4248")
        assert ended.reason is End.GONE and not ended.good
        stopper.join()
        assert time.time() - (place / "build/begun").stat().st_mtime < 20
        wait_until_dead(f": {place}")
        with pytest.raises(HostLacks, match="container engine"):
            bench.run("true")
        engine.stop()
        engine.start()
        bench.runtime.reap()
        assert engine.containers() == []


def _wait_for(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.02)


def test_an_engine_that_is_not_there_is_told(toy: Image, tmp_path: Path) -> None:
    runtime = ContainerEngine(Engine(f"unix://{tmp_path}/none", "Docker", "1", "1.41"), {})
    with pytest.raises(HostLacks, match="does not answer") as caught:
        runtime.run(Job(toy, ("true",), tmp_path / "log"))
    assert "bubblewrap" in caught.value.hint


@ENGINE
def test_a_container_taken_away_is_not_taken_for_success(docker_bench: Bench) -> None:
    api = docker_bench.runtime.api  # type: ignore[attr-defined]

    def take() -> None:
        _wait_for(docker_bench.build / "begun")
        api.remove_container(left_of(docker_bench)[0]["Id"], force=True)

    thread = threading.Thread(target=take)
    thread.start()
    assert docker_bench.run("touch begun; sleep 4249").reason is End.GONE
    thread.join()


@ENGINE
def test_an_image_that_cannot_be_read_whole_is_not_imported(
    docker_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _place() as place:
        image = busybox_image(place / "image", key="unreadable")
        tar = place / "tar"
        tar.write_text('#!/bin/sh\n/bin/tar "$@"\nexit 2\n')
        tar.chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        with pytest.raises(HostLacks, match="image"):
            docker_bench.runtime.run(replace(docker_bench.job("true"), image=image))
    assert docker_bench.runtime.api.images(docker_bench.runtime.tag(image)) == []  # type: ignore[attr-defined]


@ENGINE
def test_two_runs_at_once_import_an_image_once(docker_bench: Bench, dockerd: Dockerd) -> None:
    with _place() as place:
        image = busybox_image(place / "image", key="twice")
        runs = [runtime_at(dockerd.address) for _ in range(2)]
        jobs = [replace(docker_bench.job("true"), image=image, log=place / f"log{n}") for n in range(2)]
        ended: list[Ended] = []
        pairs = zip(runs, jobs, strict=True)
        threads = [threading.Thread(target=lambda r=r, j=j: ended.append(r.run(j))) for r, j in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [one.good for one in ended] == [True, True]
    assert all(found["RepoTags"] != ["<none>:<none>"] for found in docker_bench.runtime.api.images())  # type: ignore[attr-defined]


@ENGINE
@pytest.mark.parametrize("state", ["kept", "emptied", "lost", "edited"])
def test_another_image_under_our_tag_is_not_used(docker_bench: Bench, dockerd: Dockerd, state: str) -> None:
    """Somebody gives our tag to an image of theirs, between two runs."""
    api = docker_bench.runtime.api  # type: ignore[attr-defined]
    with _place() as place:
        image = busybox_image(place / "ours", key="ours")
        job = replace(docker_bench.job("test ! -e /etc/theirs"), image=image)
        assert runtime_at(dockerd.address).run(job).good
        tag = docker_bench.runtime.tag(image)  # type: ignore[attr-defined]
        theirs = busybox_image(place / "theirs").rootfs
        (theirs / "etc/theirs").touch()
        tarball, engines = place / "theirs.tar", place / "ours.engines"
        process.run(["tar", "--create", f"--directory={theirs}", f"--file={tarball}", "."])
        api.import_image(src=str(tarball), repository=tag)
        if state == "lost":
            engines.unlink()
        elif state != "kept":
            other = re.sub("[0-9a-f]{64}", api.inspect_image(tag)["Id"][-64:], engines.read_text(), count=1)
            engines.write_text(other if state == "edited" else "")
        assert runtime_at(dockerd.address).run(job).good
        for found in api.images():
            if found["RepoTags"] in ([tag], ["<none>:<none>"]):
                api.remove_image(found["Id"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda program: program.write_bytes(program.read_bytes()[:-1] + b"x"),
        lambda program: program.write_bytes(b""),
        lambda program: program.unlink(),
        lambda program: (program.rename(program.with_name("x")), program.symlink_to("x")),
        lambda program: (program.parent / "another-compiler").write_text("another"),
        lambda program: (program.parent.parent.parent / "manifest").write_text(""),
        lambda program: (program.parent.parent.parent / "packages.json").write_text("[]"),
    ],
)
def test_nothing_runs_in_an_image_that_changed(bench: Bench, damage: Callable[[Path], object]) -> None:
    with _place() as place:
        image = busybox_image(place / "image", key="changed")
        (image.rootfs / "bin/program").write_bytes(b"program")
        record(image)
        damage(image.rootfs / "bin/program")
        runtime = runtime_at(bench.address)
        with pytest.raises(Refused, match="builder image toy: ") as caught:
            runtime.run(replace(bench.job("touch ran"), image=image))
        assert caught.value.hint == "./inv image --image toy --fresh"
        (place / "image" / manifest.RECORD).unlink()
        record(image)
        assert runtime.run(replace(bench.job("touch whole"), image=image)).good
    assert [path.name for path in bench.build.iterdir()] == ["whole"]


@pytest.mark.xdist_group("bubblewrap")
def test_an_image_is_looked_at_once_and_read_never(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    with _place() as place:
        bench = bench_of("bubblewrap", request, place)
        image = busybox_image(place / "image", key="read")
        looks: list[Path] = []
        real = manifest.compare

        def looking(root: Path, known: manifest.Manifest, *, content: bool = False) -> manifest.Comparison:
            looks.append(root)
            return real(root, known, content=content)

        monkeypatch.setattr(manifest, "compare", looking)
        monkeypatch.setattr(manifest, "sha256_at", lambda path: pytest.fail(f"{path} is read"))
        runtime = Bubblewrap()
        assert all(runtime.run(replace(bench.job("true"), image=image)).good for _ in range(2))
    assert looks == [image.rootfs.parent]


# --- Isolation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("without", ["readlink", "sh", "env"])
def test_an_image_that_cannot_answer_the_probe_runs_nothing(bench: Bench, without: str) -> None:
    with _place() as place:
        image = busybox_image(place / "image", key=f"no-{without}")
        use_dash(image)
        assert bench.runtime.run(replace(bench.job("touch whole"), image=image)).good
        image = replace(image, key=f"no-{without}-now")
        (image.rootfs / "bin" / without).unlink()
        record(image)
        with pytest.raises(HostLacks):
            bench.runtime.run(replace(bench.job("touch ran"), image=image))
    assert [path.name for path in bench.build.iterdir()] == ["whole"]


# What a bwrap of another mind would do, and what the probe says of it.
FAKES = {
    "no sandbox": ('while [ "$1" != -- ]; do shift; done; shift; exec "$@"', "a namespace of mounts"),
    "network": ('shift; exec REAL --unshare-all --share-net "$@"', "the network interface"),
    "writable": ('for w; do shift; [ "$w" = --ro-bind ] && w=--bind; set -- "$@" "$w"; done; exec REAL "$@"', "a root"),
    "messages": ('shift; exec REAL --unshare-user --unshare-pid --unshare-net --unshare-uts "$@"', "ipc:"),
    "other user": ('shift; exec REAL --unshare-all --uid 0 "$@"', "the users 0"),
    "says so only": ("echo isolated", "isolated"),
    "nothing": ("exit 0", ""),
}


@pytest.mark.parametrize("name", list(FAKES))
def test_a_bubblewrap_that_does_not_isolate_runs_nothing(
    name: str, toy: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, why = FAKES[name]
    with _place() as place:
        (place / "bwrap").write_text(f"#!/bin/sh\n{script.replace('REAL', str(shutil.which('bwrap')))}\n")
        (place / "bwrap").chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        with pytest.raises(HostLacks, match="cannot isolate") as caught:
            Bubblewrap().run(Job(toy, ("/bin/sh", "-c", f"touch {place}/ran"), place / "log"))
        assert why in caught.value.why
        assert not (place / "log").exists()


@ENGINE
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"network_mode": "host"}, "the network interface"),
        ({"cap_drop": []}, "capabilities"),
        ({"read_only": False}, "a root"),
        ({"security_opt": []}, "new privileges"),
        ({"security_opt": ["no-new-privileges", "seccomp=unconfined"]}, "filter of system calls"),
        ({"pid_mode": "host"}, "pid:"),
        ({"ipc_mode": "host"}, "ipc:"),
    ],
)
def test_an_engine_that_does_not_isolate_runs_nothing(
    docker_bench: Bench, dockerd: Dockerd, changed: dict[str, Any], why: str
) -> None:
    runtime = ContainerEngine(dockerd.engine, {})
    real = runtime.api.create_host_config
    runtime.api.create_host_config = lambda **asked: real(**(asked | changed))
    with pytest.raises(HostLacks, match="cannot isolate") as caught:
        runtime.run(docker_bench.job("touch ran"))
    assert why in caught.value.why
    assert not (docker_bench.build / "ran").exists()
    assert left_of(docker_bench) == []


# --- The shell -----------------------------------------------------------------------------------------


def test_a_shell_has_the_persons_terminal(bench: Bench) -> None:
    words = [sys.executable, "-m", "tests.fixtures.onejob", bench.address, str(bench.image.rootfs.parent), "-"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(words[0], words, process.clean_environment(PYTHONPATH=str(ROOT), TERM="dumb"))
    said = b""
    try:
        said += _typed(terminal, b"tty; echo $((6*7))ok\r", b"42ok")
        said += _typed(terminal, b"sleep 60\r", b"sleep 60")
        time.sleep(0.5)
        said += _typed(terminal, b"\x03", b"^C")  # Ctrl-C ends the sleep, not the shell
        said += _typed(terminal, b"echo $((7*9))ok\r", b"63ok")
        said += _typed(terminal, b"exit 5\r", b"")
    finally:
        status = ended_within(pid, 10)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 5, said
    assert b"not a tty" not in said
    assert left_of(bench) == []


def ended_within(pid: int, seconds: float) -> int:
    """The wait status of a child, which is killed when it does not end by itself."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _typed(terminal: int, keys: bytes, wanted: bytes) -> bytes:
    """What comes back until `wanted` does."""
    os.write(terminal, keys)
    said, until = b"", time.monotonic() + 20
    while wanted not in said and time.monotonic() < until:
        if select.select([terminal], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):
                said += os.read(terminal, 4096)
    assert wanted in said, said
    return said


def test_a_shell_without_a_terminal_reads_its_commands(bench: Bench) -> None:
    words = [sys.executable, "-m", "tests.fixtures.onejob", bench.address, str(bench.image.rootfs.parent), "-"]
    env = process.clean_environment(PYTHONPATH=str(ROOT))
    ended = process.run(words, env=env, cwd=ROOT, stdin=b"echo out; echo err >&2; exit 6\n", timeout=60, accept=[6])
    assert (ended.text + ended.error_text).splitlines() == ["out", "err"]
