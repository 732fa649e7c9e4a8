"""Runs that are killed, and engines and images that fail: nothing outlives whoever started it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import faults, manifest, process
from pipeline.errors import HostLacks, Refused
from pipeline.host.engines import Engine
from pipeline.sandbox import supervisor
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.container import ContainerEngine
from pipeline.sandbox.runtime import (
    EndReason,
    Image,
    Job,
    JobResult,
    build_user,
    chown_to_build_user,
)
from tests.fixtures.commandline import ROOT
from tests.fixtures.dockerd import Dockerd
from tests.fixtures.onejob import runtime_at
from tests.fixtures.rootfs import busybox_image, record
from tests.fixtures.runtimes import DEATH, Bench, bench_of, left_of, living, reachable_place, wait_for, wait_until_dead

# --- Our death -------------------------------------------------------------------------------------------


def started(bench: Bench, script: str, **variables: str) -> subprocess.Popen[bytes]:
    """A process that runs the script as a job."""
    words = [sys.executable, "-m", "tests.fixtures.onejob", bench.address, str(bench.image.rootfs.parent), script]
    env = process.clean_environment(PYTHONPATH=str(ROOT), **variables)
    return subprocess.Popen(words, env=env, cwd=ROOT, stderr=subprocess.DEVNULL)


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


def test_sigkill_while_bubblewrap_begins_leaves_nothing(request: pytest.FixtureRequest) -> None:
    """The 40 ms in which bubblewrap does not tell its own children of its death."""
    with reachable_place() as place:
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
    assert docker_bench.run("true").succeeded


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
    boot, namespace, pid, _ = supervisor.owner_label().split(":")
    mark = f"{supervisor.LABEL}=".encode()
    labels = (f"{boot}:{namespace}:{pid}:1:t", "another:1:2:3:t", f"{boot}:{namespace}:none:1:t", f"{boot}:::1:t")
    return [*(mark + label.encode() for label in labels), mark + b"\xff::::"]


def test_a_job_that_says_of_its_processes_what_a_supervisor_says_stands_in_no_runs_way(bench: Bench) -> None:
    words = " ".join(f"\"$(printf '{label.decode(errors='backslashreplace')}')\"" for label in forged())
    script = f"for label in {words}; do sh -c 'sleep 2; touch lived-$$' sh $label & done; touch begun; wait"
    ended: list[JobResult] = []
    thread = threading.Thread(target=lambda: ended.append(bench.run(script)))
    thread.start()
    until = time.monotonic() + 30
    while not (bench.build / "begun").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert bench.runtime.reap() == []
    thread.join()
    assert ended[0].succeeded and len([*bench.build.glob("lived-*")]) == len(forged()), bench.text


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
    boot, namespace, pid, start = supervisor.owner_label().split(":")
    assert not supervisor.is_dead(supervisor.owner_label())
    assert supervisor.is_dead(f"{boot}:{namespace}:{pid}:1")  # another process had the id
    assert supervisor.is_dead(f"another boot:{namespace}:{pid}:{start}")
    assert not supervisor.is_dead(f"{boot}:1:{pid}:1")  # of another namespace of processes: nobody here knows


# --- Engines that fail -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_engine_that_stops_in_mid_job_is_told_within_seconds(toy: Image, number: int) -> None:
    with reachable_place() as place, Dockerd.running() as engine:
        (place / "build").mkdir()
        chown_to_build_user(place / "build")
        bench = Bench(runtime_at(engine.address), engine.address, toy, place)

        def stop() -> None:
            wait_for(place / "build/begun")
            engine.signal(number)

        stopper = threading.Thread(target=stop)
        stopper.start()
        ended = bench.run(f": {place}; sleep 1; touch begun; sleep 4248")
        assert ended.reason is EndReason.ENGINE_LOST and not ended.succeeded
        stopper.join()
        assert time.time() - (place / "build/begun").stat().st_mtime < 20
        wait_until_dead(f": {place}")
        with pytest.raises(HostLacks, match="container engine"):
            bench.run("true")
        engine.stop()
        engine.start()
        bench.runtime.reap()
        assert engine.containers() == []


def test_an_engine_that_is_not_there_is_told(toy: Image, tmp_path: Path) -> None:
    runtime = ContainerEngine(Engine(f"unix://{tmp_path}/none", "Docker", "1", "1.41"), {})
    with pytest.raises(HostLacks, match="does not answer") as caught:
        runtime.run(Job(toy, ("true",), tmp_path / "log"))
    assert "bubblewrap" in caught.value.hint


def test_a_container_taken_away_is_not_taken_for_success(docker_bench: Bench) -> None:
    api = docker_bench.runtime.api  # type: ignore[attr-defined]

    def take() -> None:
        wait_for(docker_bench.build / "begun")
        api.remove_container(left_of(docker_bench)[0]["Id"], force=True)

    thread = threading.Thread(target=take)
    thread.start()
    assert docker_bench.run("touch begun; sleep 4249").reason is EndReason.ENGINE_LOST
    thread.join()


def test_an_image_that_cannot_be_read_whole_is_not_imported(
    docker_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reachable_place() as place:
        image = busybox_image(place / "image", key="unreadable")
        tar = place / "tar"
        tar.write_text('#!/bin/sh\n/bin/tar "$@"\nexit 2\n')
        tar.chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        with pytest.raises(HostLacks, match="image"):
            docker_bench.runtime.run(replace(docker_bench.job("true"), image=image))
    assert docker_bench.runtime.api.images(docker_bench.runtime.tag(image)) == []  # type: ignore[attr-defined]


def test_two_runs_at_once_import_an_image_once(docker_bench: Bench, dockerd: Dockerd) -> None:
    with reachable_place() as place:
        image = busybox_image(place / "image", key="twice")
        runs = [runtime_at(dockerd.address) for _ in range(2)]
        jobs = [replace(docker_bench.job("true"), image=image, log=place / f"log{n}") for n in range(2)]
        ended: list[JobResult] = []
        pairs = zip(runs, jobs, strict=True)
        threads = [threading.Thread(target=lambda r=r, j=j: ended.append(r.run(j))) for r, j in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [one.succeeded for one in ended] == [True, True]
    assert all(found["RepoTags"] != ["<none>:<none>"] for found in docker_bench.runtime.api.images())  # type: ignore[attr-defined]


@pytest.mark.parametrize("state", ["kept", "emptied", "lost", "edited"])
def test_another_image_under_our_tag_is_not_used(docker_bench: Bench, dockerd: Dockerd, state: str) -> None:
    """Somebody gives our tag to an image of theirs, between two runs."""
    api = docker_bench.runtime.api  # type: ignore[attr-defined]
    with reachable_place() as place:
        image = busybox_image(place / "ours", key="ours")
        job = replace(docker_bench.job("test ! -e /etc/theirs"), image=image)
        assert runtime_at(dockerd.address).run(job).succeeded
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
        assert runtime_at(dockerd.address).run(job).succeeded
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
    with reachable_place() as place:
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
        assert runtime.run(replace(bench.job("touch whole"), image=image)).succeeded
    assert [path.name for path in bench.build.iterdir()] == ["whole"]


def test_an_image_is_looked_at_once_and_read_never(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    with reachable_place() as place:
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
        assert all(runtime.run(replace(bench.job("true"), image=image)).succeeded for _ in range(2))
    assert looks == [image.rootfs.parent]
