"""Several `build-all` at once: on the same artifacts the work is done once, and other lines do not wait for it."""

from __future__ import annotations

import json
from typing import Any

from pipeline.errors import ExitCode
from tests.fixtures.quickline import QuickLine
from tests.fixtures.workshop import Workshop

# Goes on when the test says so.
WAITS = "echo begun; while [ ! -e /build/tmp/go ]; do sleep 0.02; done"


def let_go(shop: Workshop) -> None:
    """Lets the build that waits go on."""
    [place] = shop.inv.artifacts.glob("steps/quick/ipvsadm/.work-*/scratch/build/tmp")
    (place / "go").touch()


def out_of(said: str) -> Any:
    """The one JSON document among the notes."""
    return json.loads(said[said.index("\n{") : said.rindex("}") + 1])


def test_two_at_once_do_the_work_once_and_end_with_the_same(shop: Workshop) -> None:
    shop.line.makefile(WAITS)
    words = ("--only", "role-packages", "--json")
    with shop.building("ipvsadm", *words) as one:
        shop.wait_for_the_log("begun")
        with shop.building("ipvsadm", *words) as other:
            assert other.stdout is not None
            heard = ""
            while "another run is at it" not in heard:
                heard += (line := other.stdout.readline())
                assert line, heard
            assert f"pid {one.pid}: " in heard
            let_go(shop)
            first, second = out_of(one.communicate()[0]), out_of("\n" + other.communicate()[0])
        assert (one.returncode, other.returncode) == (ExitCode.OK, ExitCode.OK)
    assert {name: step["out"] for name, step in first["steps"].items()} == {
        name: step["out"] for name, step in second["steps"].items()
    }
    ran = [name for run in (first, second) for name, step in run["steps"].items() if step["state"] == "ran"]
    assert sorted(ran) == ["ipvsadm", "role-packages"]
    assert shop.left() == {}


def test_another_line_does_not_wait(shop: Workshop) -> None:
    shop.line.makefile(WAITS)
    with shop.building("ipvsadm") as one, QuickLine(shop.place / "other", name="other") as other:
        shop.wait_for_the_log("begun")
        ended = shop.inv("build-all", *other.words, "--only", "ipvsadm", "--json")
        assert ended.json["steps"]["ipvsadm"]["state"] == "ran"
        assert "another run" not in ended.err
        assert one.poll() is None
        let_go(shop)
        said, _ = one.communicate()
    assert one.returncode == ExitCode.OK, said
    assert sorted(path.name for path in (shop.inv.artifacts / "steps").iterdir()) == ["other", "quick"]
    assert shop.left() == {}


def test_a_run_that_waits_is_stopped_by_ctrl_c_and_does_not_disturb_the_other(shop: Workshop) -> None:
    shop.line.makefile(WAITS)
    with shop.building("ipvsadm") as one:
        shop.wait_for_the_log("begun")
        with shop.building("ipvsadm") as other:
            assert other.stdout is not None
            while "another run is at it" not in other.stdout.readline():
                assert other.poll() is None
            other.send_signal(2)
            other.communicate(timeout=60)
            assert other.returncode == 130
        let_go(shop)
        said, _ = one.communicate()
    assert one.returncode == ExitCode.OK, said
    assert shop.left() == {}


def test_the_death_of_the_run_that_works_hands_the_work_to_the_one_that_waits(shop: Workshop) -> None:
    shop.line.makefile(WAITS)
    with shop.building("ipvsadm") as one:
        shop.wait_for_the_log("begun")
        with shop.building("ipvsadm") as other:
            assert other.stdout is not None
            while "another run is at it" not in other.stdout.readline():
                assert other.poll() is None
            [dead] = shop.inv.artifacts.glob("steps/quick/ipvsadm/.work-*/meta.json")
            before = dead.read_text()
            one.kill()
            shop.wait_for(lambda: dead.is_file() and dead.read_text() != before)
            shop.wait_for_the_log("begun")
            let_go(shop)
            said, _ = other.communicate()
            assert other.returncode == ExitCode.OK, said
    assert shop.left().keys() <= {"temporary files"}
