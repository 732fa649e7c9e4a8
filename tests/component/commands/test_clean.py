"""`inv clean`: what can be made again goes when it is asked for, and nothing that anybody uses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import process
from pipeline.core.fs import remove
from pipeline.core.locks import locked
from pipeline.core.trees import usage
from pipeline.errors import ExitCode
from tests.fixtures.built import Built
from tests.fixtures.commandline import Inv
from tests.fixtures.dockerd import Dockerd
from tests.fixtures.rootfs import busybox_image

KEPT = ("store/sha256/ab/abcdef", "keys/secret", "evidence/el6/sources.json")


@pytest.fixture
def inv(tmp_path: Path) -> Inv:
    return Inv(tmp_path)


@pytest.fixture
def built(inv: Inv) -> Built:
    """Two lines with everything that may go, and some that must not."""
    built = Built(inv.artifacts)
    for line in ("el6", "lts61"):
        for source in ("one", "two"):
            built.step("ipvsadm", source, line=line)
        built.fails("kernel:stock", line=line)
        for number in range(4):
            built.snapshot(line, f"snapshot-{number}", published=1_700_000_000 + number)
        (inv.artifacts / "ccache" / line / "debian12" / "kernel").mkdir(parents=True)
        (inv.artifacts / "ccache" / line / "debian12" / "kernel" / "object").write_bytes(bytes(10_000))
    for name in ("kernels", "guests"):
        (inv.artifacts / "lab" / name / "key").mkdir(parents=True)
        (inv.artifacts / "lab" / name / "key" / "file").write_bytes(bytes(10_000))
    built.image("debian12", "a" * 16, link="asked")
    built.image("debian12", "b" * 16, link="asked")
    for name in KEPT:
        (inv.artifacts / name).parent.mkdir(parents=True)
        (inv.artifacts / name).write_text("kept")
    return built


def tree(place: Path) -> set[str]:
    """Every file and link below a place but the locks, which are never removed."""
    found = (path for path in place.rglob("*") if path.is_symlink() or not path.is_dir())
    return {str(path.relative_to(place)) for path in found if "lock" not in path.name}


def cleaned(inv: Inv, *words: str, expect: int = ExitCode.OK) -> set[str]:
    """The files that went with `clean WORDS`."""
    before = tree(inv.artifacts)
    inv("clean", *words, expect=expect)
    assert tree(inv.artifacts) <= before, "cleaning up makes nothing"
    assert all((inv.artifacts / name).read_text() == "kept" for name in KEPT)
    return before - tree(inv.artifacts)


def tops(files: set[str], depth: int = 4) -> set[str]:
    """The directories that files are in, `depth` names deep, without keys."""
    return {"/".join(name.split("/")[:depth]) for name in files}


def test_without_a_word_nothing_is_removed_and_each_words_gain_is_told(inv: Inv, built: Built) -> None:
    assert cleaned(inv) == set()
    said = inv("clean", "--json").json
    assert {word: row["items"] for word, row in said["would"].items()} == {
        "failed": 2, "old": 2 + 4 + 1, "ccache": 2, "steps": 4, "images": 2, "guests": 2, "all": 2 + 4 + 2 + 4 + 2 + 2,
    }  # fmt: skip
    assert all(row["bytes"] >= 10_000 for row in said["would"].values())
    assert said["would"]["all"]["bytes"] == sum(item["bytes"] for item in said["items"])
    text = inv("clean").out
    assert "nothing was removed" in text and "the compiler's cache" in text


def test_failed_takes_what_failed_and_what_was_killed(inv: Inv, built: Built) -> None:
    built.dies("keepalived")
    gone = cleaned(inv, "failed")
    assert tops({name.replace("/.work-", "/.work/") for name in gone}) == {
        "steps/el6/kernel-stock/.failed", "steps/lts61/kernel-stock/.failed", "steps/lts61/keepalived/.work",
    }  # fmt: skip


def test_old_keeps_the_newest_of_everything_and_two_snapshots(inv: Inv, built: Built) -> None:
    newest = {str(built.step("ipvsadm", "two", line=line).relative_to(inv.artifacts)) for line in ("el6", "lts61")}
    gone = cleaned(inv, "old")
    assert {f"repo/{line}/snapshots/snapshot-{n}/stock/a.rpm" for line in ("el6", "lts61") for n in (0, 1)} <= gone
    assert f"images/debian12/{'a' * 16}/packages.json" in gone
    assert tops(gone, 3) == {
        "steps/el6/ipvsadm", "steps/lts61/ipvsadm", "repo/el6/snapshots", "repo/lts61/snapshots",
        f"images/debian12/{'a' * 16}",
    }  # fmt: skip
    left = tree(inv.artifacts)
    assert {"repo/el6/latest", "repo/el6/snapshots/snapshot-2/stock/a.rpm", "images/debian12/asked"} <= left
    assert all(f"{place}/out/rpms/a.rpm" in left for place in newest)
    assert cleaned(inv, "old") == set(), "the second time there is nothing"


def test_the_latest_snapshot_stays_though_newer_ones_are_there(inv: Inv, built: Built) -> None:
    latest = inv.artifacts / "repo" / "el6" / "latest"
    latest.unlink()
    latest.symlink_to("snapshots/snapshot-0")
    cleaned(inv, "old")
    left = sorted(path.name for path in (inv.artifacts / "repo" / "el6" / "snapshots").iterdir())
    assert left == ["snapshot-0", "snapshot-2", "snapshot-3"]


def test_all_leaves_sources_keys_evidence_and_the_newest_snapshots(inv: Inv, built: Built) -> None:
    cleaned(inv, "all")
    assert tree(inv.artifacts) == {
        *KEPT,
        *(f"repo/{line}/snapshots/snapshot-{n}/stock/a.rpm" for line in ("el6", "lts61") for n in (2, 3)),
        *(f"repo/{line}/latest" for line in ("el6", "lts61")),
    }


@pytest.mark.parametrize(
    ("word", "place"), [("steps", "steps"), ("images", "images"), ("ccache", "ccache"), ("guests", "lab")]
)
def test_each_word_takes_its_own_place_only(inv: Inv, built: Built, word: str, place: str) -> None:
    gone = cleaned(inv, word)
    assert tops(gone, 1) == {place}
    assert not {name for name in tree(inv.artifacts) if name.startswith(place) and "/.failed/" not in name}


def test_what_a_running_lab_boots_is_left_and_named(inv: Inv, built: Built) -> None:
    with locked(inv.artifacts / "lab" / "lock", shared=True):
        assert cleaned(inv, "guests", expect=ExitCode.LOCKED) == set()
    assert tops(cleaned(inv, "guests"), 2) == {"lab/kernels", "lab/guests"}


def test_with_a_line_only_what_is_that_lines_goes(inv: Inv, built: Built) -> None:
    gone = cleaned(inv, "all", "--line", "el6")
    assert tops(gone, 2) == {"steps/el6", "ccache/el6", "repo/el6"}


def test_the_caches_of_every_file_that_bears_a_lines_name_go_and_what_earlier_versions_shared(
    inv: Inv, built: Built
) -> None:
    for name in ("el6+0123abcd", "el6+4567cdef", "el6-house+0123abcd", "el6-centos6"):
        (inv.artifacts / "ccache" / name / "debian12").mkdir(parents=True)
        (inv.artifacts / "ccache" / name / "debian12" / "object").touch()
    gone = cleaned(inv, "ccache", "--line", "el6")
    assert tops(gone, 2) == {f"ccache/{name}" for name in ("el6", "el6+0123abcd", "el6+4567cdef", "el6-centos6")}


def test_a_link_in_place_of_all_caches_goes_and_what_it_leads_to_stays(inv: Inv, built: Built) -> None:
    (inv.artifacts / "ccache").rename(inv.cwd / "elsewhere")
    (inv.artifacts / "ccache").symlink_to(inv.cwd / "elsewhere")
    assert cleaned(inv, "ccache") == {"ccache"}
    assert (inv.cwd / "elsewhere/el6/debian12/kernel/object").exists()


def test_another_word_is_refused_and_nothing_is_removed(inv: Inv, built: Built) -> None:
    before = tree(inv.artifacts)
    ended = inv("clean", "ccache", "everything", expect=ExitCode.USAGE)
    assert "WHAT of clean 'everything': not found" in ended.err
    assert "known: failed, old, ccache, steps, images, guests, all" in ended.err
    assert tree(inv.artifacts) == before


def test_a_line_that_is_not_there_is_refused_and_one_that_only_was_built_here_is_not(inv: Inv, built: Built) -> None:
    ended = inv("clean", "all", "--line", "el7", expect=ExitCode.USAGE)
    assert "line 'el7': not found; did you mean el6?" in ended.err and "known: el6, lts61" in ended.err
    built.step("ipvsadm", "one", line="el6-house")
    assert tops(cleaned(inv, "all", "--line", "el6-house"), 2) == {"steps/el6-house"}


def test_where_nothing_is_there_is_nothing_to_clean(inv: Inv) -> None:
    assert inv("clean", "all").out == "0 removed, 0 B freed\n"
    assert not inv.artifacts.exists()


# --- What is in use ------------------------------------------------------------------------------------


@pytest.fixture
def building(inv: Inv, built: Built) -> Iterator[None]:
    """A run of el6 that is between two steps: it relies on what it has built, and holds no step."""
    with built.runner("el6").shared_lock():
        yield


@pytest.mark.usefixtures("building")
def test_nothing_that_a_run_may_rely_on_is_removed_while_it_lasts(inv: Inv) -> None:
    gone = cleaned(inv, "all", expect=ExitCode.LOCKED)
    assert tops(gone, 2) == {"steps/el6", "steps/lts61", "repo/el6", "repo/lts61", "lab/kernels", "lab/guests"}
    assert tops({name for name in gone if name.startswith("steps/el6")}, 4) == {"steps/el6/kernel-stock/.failed"}
    said = inv("clean", "all", "--json", expect=ExitCode.LOCKED).json
    assert said["removed"] == []
    left = {"/".join(row["path"].split("/")[1:3]) for row in said["left"]}
    assert left == {"steps/el6", "ccache/el6", "ccache/lts61", "images/debian12"}
    assert all(f"pid {os.getpid()}: " in row["why"] for row in said["left"])


@pytest.mark.parametrize(
    ("lock", "word", "places"),
    [
        ("steps/lts61/kernel-stock/lock", "failed", "steps/lts61/kernel-stock/.failed"),
        ("steps/lts61/kernel-stock/shell.lock", "failed", "steps/lts61/kernel-stock/.failed"),
        ("steps/lts61/ipvsadm/lock", "steps", "steps/lts61/ipvsadm/[!l]*"),
        ("images/debian12/asked.lock", "images", "images/debian12/[ab]*[ab]"),
        ("repo/lts61/.lock", "old", "repo/lts61/snapshots/snapshot-0"),
    ],
)
def test_what_is_locked_is_left_and_named(inv: Inv, built: Built, lock: str, word: str, places: str) -> None:
    before = sorted(inv.artifacts.glob(places))
    with locked(inv.artifacts / lock):
        ended = inv("clean", word, expect=ExitCode.LOCKED)
    assert sorted(inv.artifacts.glob(places)) == before != []
    for place in before:
        assert (
            f"left, in use: {place.relative_to(inv.cwd)}: another run holds the lock (pid {os.getpid()}: " in ended.out
        )
    inv("clean", word)
    assert sorted(inv.artifacts.glob(places)) == []


def test_what_may_not_be_removed_is_left_and_named(inv: Inv, built: Built) -> None:
    """As where root has built and another user cleans up; made here by a name that cannot be taken."""
    (inv.artifacts / "ccache" / ".old-el6").write_text("in the way")
    place = inv.artifacts / "ccache" / "el6"
    ended = inv("clean", "ccache", "--line", "el6", expect=ExitCode.HOST)
    assert "left, not removed: artifacts/ccache/el6: it could not be removed: " in ended.out
    assert (place / "debian12/kernel/object").exists()


def test_a_killed_removal_is_finished_by_the_next_one(inv: Inv, built: Built) -> None:
    """The name tells what it is: nobody takes half a result for one."""
    result = built.step("ipvsadm", "two")
    result.rename(result.with_name(f".old-{result.name}"))
    failed = inv.artifacts / "steps/el6/kernel-stock/.failed"
    failed.rename(failed.with_name(".old-failed"))
    assert tops(cleaned(inv, "failed"), 3) == {
        "steps/el6/kernel-stock",
        "steps/lts61/ipvsadm",
        "steps/lts61/kernel-stock",
    }


# --- Files ---------------------------------------------------------------------------------------------


def test_the_room_of_a_file_with_two_names_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(1 << 20))
    before = usage(tmp_path)
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    (tmp_path / "link").symlink_to("/usr")
    assert 1 << 20 <= usage(tmp_path) <= before + 4096
    assert usage(tmp_path / "nothing") == 0


def test_a_tree_that_may_not_be_written_can_be_removed_by_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "image"
    (place / "usr" / "bin").mkdir(parents=True)
    (place / "usr" / "bin" / "program").write_text("x")
    for path in (place / "usr" / "bin", place / "usr"):
        path.chmod(0o555)
    monkeypatch.chdir(tmp_path)
    with somebody(tmp_path):
        remove(Path("image"))
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def somebody(place: Path) -> Iterator[None]:
    """Whoever runs the tests; in root's place, whom nothing is forbidden, another user who owns `place`."""
    user = os.geteuid() or 64001
    for path in (place, *place.rglob("*")):
        os.chown(path, user, -1)
    me = os.geteuid()
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(me)


# --- Engines -------------------------------------------------------------------------------------------


def test_superseded_images_in_an_engine_go_and_those_in_use_stay(inv: Inv, built: Built, tmp_path: Path) -> None:
    current, superseded, used = (f"localhost/lvs-fullnat/debian12:{letter * 16}" for letter in "bac")
    tarball = tmp_path / "image.tar"
    process.run(
        ["tar", "--create", f"--directory={busybox_image(tmp_path / 'image').rootfs}", f"--file={tarball}", "."]
    )
    with Dockerd.running() as engine:
        for tag in (current, superseded, used, "localhost/somebody/elses:1"):
            engine.api.import_image(src=str(tarball), repository=tag)
        container = engine.api.create_container(used, ["/bin/sleep", "60"], network_disabled=True)["Id"]
        environment: dict[str, Any] = {"DOCKER_HOST": engine.address}
        assert inv("clean", "--json", **environment).json["would"]["old"]["items"] == 2 + 4 + 1 + 2
        ended = inv("clean", "old", expect=ExitCode.LOCKED, **environment)
        tags = {tag for image in engine.api.images() for tag in image["RepoTags"]}
        engine.api.remove_container(container, force=True)
        assert tags == {current, used, "localhost/somebody/elses:1"}
        assert f"left, in use: {used} in Docker " in ended.out
        assert inv("clean", "images", **environment).out.count("localhost/lvs-fullnat") == 2
