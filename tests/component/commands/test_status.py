"""`inv status`: the last state of everything, from a disk in whatever shape it is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import manifest, process
from pipeline.core.console import local_time
from pipeline.core.locks import locked
from pipeline.errors import ExitCode
from pipeline.lab import run_record
from pipeline.lab.report.results import RunState
from pipeline.nights import record
from pipeline.nights.record import Failure, LineNight, Night, Phase, Verdict
from pipeline.packaging.scheduler import LOCK
from tests.fixtures import labruns
from tests.fixtures.built import NEXT, Built
from tests.fixtures.commandline import ROOT, Inv

# A run that stays in the middle of its step until it is killed.
STAYS = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pipeline.packaging.graph import StepGraph, Step
from tests.fixtures.built import Built
def action(work):
    print("begun", flush=True)
    time.sleep(600)
Built(Path(sys.argv[2])).runner("lts61").run(StepGraph([Step("kernel:stock", action)]))
"""


@pytest.fixture
def inv(tmp_path: Path) -> Inv:
    return Inv(tmp_path)


@pytest.fixture
def built(inv: Inv) -> Built:
    return Built(inv.artifacts)


@pytest.fixture
def staying(built: Built) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that is building kernel:stock."""
    argv = [sys.executable, "-c", STAYS, str(ROOT), str(built.artifacts)]
    with process.start(argv) as child:
        assert child.stdout is not None and child.stdout.readline() == b"begun\n"
        yield child


def steps(inv: Inv) -> dict[str, Any]:
    """What `status --json` says of each step."""
    return {f"{step['line']} {step['step']}": step for step in inv("status", "--json").json["steps"]}


def test_where_nothing_was_made_status_says_so_and_makes_nothing(inv: Inv) -> None:
    assert "nothing has been made in artifacts yet; next: ./inv build-all" in inv("status").out
    assert not inv.artifacts.exists()


def test_the_last_night_of_each_line_is_told_with_its_outcome_and_page(inv: Inv) -> None:
    nights = record.root(inv.artifacts)
    failure = Failure(Phase.BUILD, "kernel:stock", "kernel:stock: a.c:1: error\nand more", "", "", ExitCode.BUILD)
    red = LineNight("lts61", "lts61", Verdict.RED, Phase.BUILD, failure=failure)
    green = LineNight("el6", "el6", Verdict.GREEN, Phase.RELEASE, snapshot="a" * 32, released=True)
    for night in (Night(1, 0.0, 1, "", ended=True, lines=(green, red)), Night(2, 9.0, 1, "", ended=True, lines=(red,))):
        record.write(record.place_of(nights, night.number), night)
    begun = LineNight("lts612", "lts612", phase=Phase.SMOKE)
    record.write(record.place_of(nights, 3), Night(3, 99.0, 1, "", lines=(begun,)))
    said = inv("status").out
    assert f"el6: night 1 green, begun {local_time(0.0)}: artifacts/nights/000001/night.json" in said
    assert (
        f"lts61: night 2 red in build, begun {local_time(9.0)}: kernel:stock: a.c:1: error; broken since night 1"
        in said
    )
    assert f"lts612: night 3 killed in smoke, begun {local_time(99.0)}" in said, "nobody holds the lock"
    damaged = record.place_of(nights, 4) / record.RECORD
    damaged.parent.mkdir()
    damaged.write_text("")
    (told,) = (row for row in inv("status").out.splitlines() if row.startswith("night 4: its record cannot be read"))
    assert "artifacts/nights/000004/night.json" in told
    assert [row["number"] for row in inv("status", "--json").json["unreadable_nights"]] == [4]
    (nights / record.INDEX).write_text("")
    with locked(nights / record.LOCK):
        found = inv("status", "--json").json["nights"]
    assert list(found) == ["el6", "lts61", "lts612"]
    assert found["lts612"]["verdict"] == "running" and found["lts61"]["broken_since"] == 1
    assert found["el6"] == {
        "number": 1,
        "begun": 0.0,
        "verdict": "green",
        "phase": "release",
        "snapshot": "a" * 32,
        "released": True,
        "failure": "",
        "broken_since": None,
        "page": "artifacts/nights/index.html",
    }
    assert not (nights / record.INDEX_JSON).exists(), "a status changes nothing"


def test_each_steps_last_run_is_told_with_its_time_and_duration(inv: Inv, built: Built) -> None:
    before = time.time()
    built.step("ipvsadm", "one")
    built.step("ipvsadm", "two")
    built.step("ipvsadm", "one", line="el6")
    found = steps(inv)
    assert list(found) == ["el6 ipvsadm", "lts61 ipvsadm"]
    for step in found.values():
        assert step["state"] == "done" and before - 1 <= step["begun"] <= time.time() and step["seconds"] >= 0
    assert "lts61  ipvsadm  done" in inv("status").out


def test_signed_modules_are_told_with_the_certificate_of_their_last_run(inv: Inv, built: Built) -> None:
    name, by = "package:kmod-lvs-fullnat", {"module-certificate": "CN=Key own, SHA-256 1234"}
    built.step(name, "one", more=by)
    assert inv("status", "--json").json["certificates"] == {f"lts61 {name}": "CN=Key own, SHA-256 1234"}
    assert f"lts61 {name}: modules signed by CN=Key own, SHA-256 1234\n" in inv("status").out
    built.step(name, "two")
    assert inv("status", "--json").json["certificates"] == {}


def test_what_failed_is_told_with_the_next_command(inv: Inv, built: Built) -> None:
    built.step("kernel:stock", "one")
    built.fails("kernel:stock")
    assert (steps(inv)["lts61 kernel:stock"]["state"], steps(inv)["lts61 kernel:stock"]["next"]) == ("failed", NEXT)
    assert f"lts61 kernel:stock failed: {NEXT}" in inv("status").out


def test_a_step_that_was_mended_is_done_again(inv: Inv, built: Built) -> None:
    built.fails("kernel:stock")
    built.step("kernel:stock", "one")
    assert steps(inv)["lts61 kernel:stock"]["state"] == "done"


def test_a_run_that_lives_is_running_and_one_that_was_killed_is_interrupted(
    inv: Inv, staying: subprocess.Popen[bytes]
) -> None:
    [step] = steps(inv).values()
    assert (step["state"], step["pid"], step["next"]) == ("running", staying.pid, "")
    assert f"running, pid {staying.pid}" in inv("status").out
    staying.send_signal(signal.SIGKILL)
    staying.wait()
    [step] = steps(inv).values()
    assert (step["state"], step["pid"]) == ("interrupted", None)
    assert step["next"] == "./inv build-all --only kernel:stock --line lts61"


def test_a_killed_run_whose_number_another_process_has_now_is_interrupted(inv: Inv, built: Built) -> None:
    meta = built.dies("keepalived") / "meta.json"
    meta.write_text(manifest.seal({**manifest.unseal(meta.read_bytes()), "pid": os.getpid()}))
    assert steps(inv)["lts61 keepalived"]["state"] == "interrupted"


def test_what_a_dead_run_left_is_interrupted_although_another_run_has_its_lock_now(inv: Inv, built: Built) -> None:
    left = built.dies("keepalived")
    with locked(left.parent / LOCK):
        assert steps(inv)["lts61 keepalived"]["state"] == "interrupted"


def test_status_waits_for_nobody_and_disturbs_nobody(inv: Inv, staying: subprocess.Popen[bytes]) -> None:
    inv("status")
    assert staying.poll() is None
    assert b"pid" in next(inv.artifacts.glob("steps/lts61/kernel-stock/lock")).read_bytes()


def test_images_snapshots_and_sizes_are_told(inv: Inv, built: Built) -> None:
    built.image("debian12", "a" * 16, link="asked")
    built.image("debian12", "b" * 16, link="asked")
    built.snapshot("el6", "first", published=1_700_000_000)
    built.snapshot("el6", "second", published=1_700_000_100)
    built.step("ipvsadm", "one", size=1 << 20)
    said = inv("status", "--json").json
    assert [(image["key"][0], image["current"], image["packages"]) for image in said["images"]] == [
        ("a", False, 2),
        ("b", True, 2),
    ]
    assert (said["latest"]["el6"]["id"], said["latest"]["el6"]["published"]) == ("second", 1_700_000_100)
    assert set(said["bytes"]) == {"steps", "images", "repo"} and said["bytes"]["steps"] >= 1 << 20
    text = inv("status").out
    assert "el6: latest is second, published " in text
    assert f"image debian12 {'a' * 16}: superseded" in text and f"image debian12 {'b' * 16}: current" in text


def test_the_last_run_of_each_lines_lab_is_told_with_its_page(inv: Inv, built: Built) -> None:
    reports = inv.artifacts / "reports/lab"
    built.snapshot("el6", "second", published=1_700_000_000)
    labruns.recorded(reports / "el6/one", labruns.passed(), started=10.0, snapshot="first")
    labruns.recorded(reports / "el6/two", labruns.passed(), labruns.fullnat(), started=20.0, snapshot="first")
    labruns.recorded(reports / "lts61-small/three", labruns.passed())
    said = inv("status", "--json").json["lab"]
    assert said["el6"] == {
        "state": "failed",
        "snapshot": "first",
        "begun": 20.0,
        "seconds": said["el6"]["seconds"],
        "states": {"boot": "passed", "fullnat": "failed"},
        "page": str(reports.relative_to(inv.cwd) / "el6/two/report.html"),
    }
    assert said["lts61-small"]["state"] == "passed"
    text = inv("status").out
    assert "el6: lab failed, 1 of 2 scenarios passed, begun 1970-" in text
    assert "el6/two/report.html; of an earlier snapshot, first" in text
    assert "lts61-small: lab passed, 1 of 1 scenarios passed" in text


def test_a_run_of_the_lab_whose_process_is_gone_is_interrupted(inv: Inv) -> None:
    work = inv.artifacts / "reports/lab/el6/one"
    with pytest.raises(KeyError), run_record.recording(work, labruns.report(labruns.passed())) as recorder:
        raise KeyError
    recorder.save(state=RunState.RUNNING)
    assert inv("status", "--json").json["lab"]["el6"]["state"] == "interrupted"
    assert "el6: lab interrupted, 1 of 1 scenarios passed" in inv("status").out


def test_a_disk_in_any_shape_is_told_and_never_an_error(inv: Inv, built: Built) -> None:
    place = built.step("ipvsadm", "one")
    (place / "meta.json").write_text('{"state": ')
    spoilt = built.step("keepalived", "one")
    (spoilt / "meta.json").write_text('{"state": "done", "begun": "yesterday", "seconds": [], "pid": {}, "options": 7}')
    (built.fails("kernel:stock") / "meta.json").write_text('{"error": "no"}')
    (built.dies("role-packages") / "meta.json").unlink()
    image = built.image("debian12", "a" * 16, link="asked")
    (image / "packages.json").write_text("[]")
    (inv.artifacts / "repo" / "el6").mkdir(parents=True)
    (inv.artifacts / "repo" / "el6" / "latest").symlink_to("snapshots/gone")
    (inv.artifacts / "store").write_text("a file")
    (inv.artifacts / "ccache").symlink_to("ccache")
    (inv.artifacts / "steps" / "stray").write_text("a file")
    found = {name: step["state"] for name, step in steps(inv).items()}
    assert found == {
        "lts61 ipvsadm": "unreadable",
        "lts61 keepalived": "unreadable",
        "lts61 kernel-stock": "failed",
        "lts61 role-packages": "interrupted",
    }
    assert "unreadable: ./inv build-all --only ipvsadm --line lts61" in inv("status").out


def test_no_program_no_network_and_no_engine_is_asked(inv: Inv, built: Built, tmp_path: Path) -> None:
    built.image("debian12", "a" * 16, link="asked")
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "s"))
        engine.listen()
        engine.settimeout(0.05)
        address = f"unix://{tmp_path}/s"
        inv("status", DOCKER_HOST=address, **inv.without_programs("docker", "rpm", "git", "apt-get", "bwrap"))
        with pytest.raises(TimeoutError):
            engine.accept()
    assert inv.called == ""
