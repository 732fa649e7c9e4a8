"""`build-all` stopped in the middle: by Ctrl-C, by signals, by an engine that goes away, by a full disk."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from pipeline.errors import ExitCode
from tests.fixtures.dockerd import Dockerd
from tests.fixtures.quickline import PACKAGE
from tests.fixtures.workshop import Workshop

SLOW = "echo begun; sleep 600"

# --- Signals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_at_once_with_all_it_began_and_the_next_goes_on(number: int, either: Workshop) -> None:
    either.line.makefile(SLOW)
    with either.building("ipvsadm", "--only", "role-packages") as child:
        either.wait_for(lambda: list(either.inv.artifacts.glob("steps/quick/role-packages/[!.]*/meta.json")))
        either.wait_for_the_log("begun")
        child.send_signal(number)
        said, _ = child.communicate(timeout=60)
        assert child.returncode == 128 + number, said
        assert either.left() == {}
    assert "stopped; what was begun goes on with the next run" in said
    assert "Traceback" not in said
    either.line.makefile()
    steps = either.build("ipvsadm", "--only", "role-packages", "--json").json["steps"]
    assert {name: step["state"] for name, step in steps.items()} == {"ipvsadm": "ran", "role-packages": "reused"}
    assert not list(either.inv.artifacts.glob("steps/*/*/.*-*"))


def test_sigkill_leaves_nothing_that_runs_and_the_next_run_goes_on(either: Workshop) -> None:
    either.line.makefile(SLOW)
    with either.building("ipvsadm") as child:
        either.wait_for_the_log("begun")
        child.kill()
        child.wait()
    assert either.left().keys() <= {"temporary files"}
    [dead] = either.inv.artifacts.glob("steps/quick/ipvsadm/.work-*/meta.json")
    assert json.loads(dead.read_text())["state"] == "running"
    either.line.makefile()
    assert PACKAGE in either.build("ipvsadm").out
    assert not list(either.inv.artifacts.glob("steps/*/*/.*-*"))


# --- Engines -------------------------------------------------------------------------------------------


def test_an_engine_that_goes_away_in_mid_build_is_named_and_bubblewrap_goes_on(images: Path) -> None:
    with Dockerd.running() as engine, Workshop.opened(images, engine) as shop:
        shop.line.makefile(SLOW)
        with shop.building("ipvsadm", "--runtime", "docker") as child:
            shop.wait_for_the_log("begun")
            engine.signal(signal.SIGKILL)
            said, _ = child.communicate(timeout=60)
        assert child.returncode == ExitCode.HOST, said
        assert "error: Docker 2" in said and "connection to the container lost" in said and "ipvsadm" in said
        assert "--runtime bubblewrap --line-file" in said
        assert shop.inv.living() == []
        shop.line.makefile()
        assert PACKAGE in shop.build("ipvsadm", "--runtime", "bubblewrap").out
        refused = shop.build("ipvsadm", "--runtime", "docker", "--force", "ipvsadm", expect=ExitCode.HOST)
        assert "container engine: none answers" in refused.err and engine.address in refused.err


# --- The image -----------------------------------------------------------------------------------------

# Instead of mmdebstrap: an image of one file; the first time it is in no hurry, and has something mounted.
SLOW_MAKER = f"""printf 'Package: toy\\nVersion: 1\\nSHA256: {"0" * 64}\\n' > packages.txt
if [ ! -e "$CALLED" ]; then
  touch "$CALLED"; mkdir mounted; mount -t tmpfs none mounted; sleep 600
fi
for word; do case $word in *.tar) tar cf "$word" -C /etc debian_version ;; esac; done"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_image_whose_making_was_stopped_is_made_anew(number: int, shop: Workshop) -> None:
    root = shop.inv.artifacts / "images"
    root.unlink()
    called = shop.place / "called"
    stand_ins = shop.inv.with_stand_ins({"mmdebstrap": SLOW_MAKER.replace("$CALLED", str(called))})
    making = ("image", *shop.line_words)
    with shop.running(*making, **stand_ins) as child:
        shop.wait_for(called.exists)
        shop.wait_for(lambda: list(root.glob("debian12/.new-*/mounted")))
        child.send_signal(number)
        child.communicate(timeout=60)
    assert shop.left().keys() <= ({"temporary files"} if number == signal.SIGKILL else set())
    assert not list(root.glob("debian12/[!.]*/packages.json")), "under no name that is looked for"
    shop.inv(*making, **stand_ins)
    [image] = [path for path in root.glob("debian12/*") if path.is_dir() and not path.is_symlink()]
    assert (image / "rootfs/debian_version").is_file()
    assert not list(root.glob("debian12/.new-*"))
