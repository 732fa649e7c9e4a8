"""A source RPM is fetched only when it is pinned, proven only once, and refused by its reason."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.fs import sha256_of
from pipeline.errors import ExitCode
from tests.fixtures.badserver import BadServer
from tests.fixtures.commandline import AUTHOR, Inv
from tests.fixtures.pinning import CONN, PROGRAMS, SCHED, fetch, lock_file, locked, objects, pin, served
from tests.fixtures.toy import NVR, SRPM, TARBALL, Toy, make_toy


@pytest.fixture
def inv(tmp_path: Path) -> Inv:
    return Inv(tmp_path)


def test_after_pin_fetch_works_and_says_what_the_trust_rests_on(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    pin(inv, toy)
    said = fetch(inv, toy, "--json").json
    srpm, tarball = said["sources"]
    assert (srpm["name"], srpm["version"], srpm["sha256"]) == ("kernel-srpm", NVR, sha256_of(toy.mirror / SRPM))
    assert re.fullmatch(
        rf"digest pinned by {AUTHOR} on \d{{4}}-\d\d-\d\d; good signature by toy \({toy.key_fingerprint}\)", srpm["how"]
    )
    assert tarball["how"] == "digest pinned in the line file; 4 members as pinned"
    assert json.loads((inv.artifacts / "evidence" / "toy" / "sources.json").read_text()) == said


def test_evidence_names_the_place_a_pinned_file_came_from(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    pin(inv, toy)
    first, again = (fetch(inv, toy, "--json").json["sources"] for _ in range(2))
    assert [source["origin"] for source in first] == [str(toy.mirror / SRPM), str(toy.mirror / TARBALL)]
    assert first == again


def test_a_pin_made_elsewhere_is_proven_again_where_it_is_fetched(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    pin(Inv(tmp_path / "colleague"), toy)
    ended = fetch(inv, toy)
    assert f"{SRPM}: checking signature, NEVRA, spec and kernel tree" in ended.err
    assert "2 sources verified, 2 fetched" in ended.out
    again = fetch(inv, toy, **inv.without_programs(*PROGRAMS))
    assert "checking" not in again.err and inv.called == "", "but only once"


def test_another_file_than_the_pinned_one_is_refused_and_kept(inv: Inv, tmp_path: Path) -> None:
    """As when a mirror has Red Hat's file and the pin is of CentOS's."""
    toy = make_toy(tmp_path / "toy")
    pin(Inv(tmp_path / "colleague"), toy)
    other = make_toy(tmp_path / "other", tree_extra={"net/extra.c": "/* another */\n"})
    (toy.mirror / SRPM).write_bytes((other.mirror / SRPM).read_bytes())
    ended = fetch(inv, toy, expect=ExitCode.REFUSED)
    assert f"{SRPM}: downloaded content differs from the pinned file" in ended.err
    assert locked(toy)["sha256"] in ended.err


def test_a_second_fetch_proves_nothing_again_and_makes_no_request(inv: Inv, tmp_path: Path) -> None:
    with BadServer() as server:
        toy = served(make_toy(tmp_path / "toy"), server)
        pin(inv, toy)
        fetch(inv, toy)
        asked = server.count()
        ended = fetch(inv, toy, **inv.without_programs(*PROGRAMS))
        assert "2 sources verified, nothing fetched" in ended.out
        assert (server.count(), inv.called) == (asked, "")
        assert asked == 2, "one request per file altogether"


def test_a_fetch_needs_no_program_at_all_when_everything_is_there(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    pin(inv, toy)
    fetch(inv, toy)
    (tmp_path / "no-programs").mkdir()
    fetch(inv, toy, PATH=str(tmp_path / "no-programs"))


def test_the_stand_ins_do_tell_when_something_is_proven(inv: Inv, tmp_path: Path) -> None:
    """Else the two tests above would hold for any code."""
    toy = make_toy(tmp_path / "toy")
    pin(inv, toy)
    for record in (inv.store / "records").glob("proof-*"):
        record.unlink()
    ended = inv("fetch", "--line-file", toy.line_file, expect=ExitCode.BUG, **inv.without_programs(*PROGRAMS))
    assert "gpg failed with exit status 99" in ended.err
    assert inv.called.startswith("gpg ")


def test_other_pins_in_the_line_are_proven_anew(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    pin(inv, toy)
    fetch(inv, toy)
    text = toy.line_file.read_text()
    toy.line_file.write_text(re.sub(r'git-tree = "[0-9a-f]{40}"', f'git-tree = "{"0" * 40}"', text))
    ended = fetch(inv, toy, expect=ExitCode.REFUSED)
    assert f"wanted git tree {'0' * 40}" in ended.err


# What must not be pinned. Each refusal is the whole first line, and the why.
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "another release": (
        {"release": "220.24.1"},
        f"{SRPM} holds another package",
        rf"wanted {NVR}, had kernel-2\.6\.32-220\.24\.1\.el6",
    ),
    "a spec that lacks an anchor": (
        {"spec_drops_anchor": True},
        "kernel.spec lacks lines the build hooks into",
        "missing: ApplyOptionalPatch linux-kernel-test.patch",
    ),
    "another config-generic": (
        {"config_changed": True},
        f"config-generic in {SRPM} is not the pinned one",
        r"wanted [0-9a-f]{64} \(\d+ bytes\), had [0-9a-f]{64} \(\d+ bytes\)",
    ),
    "unsigned": (
        {"unsigned": True},
        "the package's signature or digests are not good",
        ".*Header RSA signature: NOTFOUND.*",
    ),
    "signed by a stranger": (
        {"signer": "other"},
        "the package's signature or digests are not good",
        ".*key ID [0-9a-f]+: NOKEY.*",
    ),
    "with a flipped bit": (
        {"flip_payload": True},
        "the package's signature or digests are not good",
        ".*Payload SHA256 digest: BAD.*",
    ),
    "cut short": (
        {"truncated": True},
        "the package's signature or digests are not good",
        ".*Payload SHA256 digest: BAD.*",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_is_refused_by_its_reason_and_kept(inv: Inv, tmp_path: Path, name: str) -> None:
    variant, what, why = BAD[name]
    toy = make_toy(tmp_path / "toy", **variant)
    said = pin(inv, toy, "--json", expect=ExitCode.REFUSED).json
    assert said["what"] == what
    assert re.fullmatch(why, said["why"]), said["why"]
    assert_kept(inv, toy, said["where"])


def assert_kept(inv: Inv, toy: Toy, where: str) -> None:
    """The bad file is where the refusal says, and nothing else was made of it."""
    origin, _, kept = where.partition(", kept as ")
    assert origin == str(toy.mirror / SRPM)
    bad = inv.cwd / kept
    assert bad.name == f"{sha256_of(toy.mirror / SRPM)}-{SRPM}"
    assert bad.read_bytes() == (toy.mirror / SRPM).read_bytes()
    assert not lock_file(toy).exists() and objects(inv) == set()
    assert list((inv.store / "partial").iterdir()) == []


TREES: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "lacks a file": ({"tree_missing": [CONN]}, "1 missing", [f"missing {CONN}"]),
    "has one more": ({"tree_extra": {"net/extra.c": "/* extra */\n"}}, "1 extra", ["extra   net/extra.c"]),
    "has another one": ({"tree_changed": {CONN: "/* changed */\n"}}, "1 changed", [f"changed {CONN}"]),
    "differs in every way": (
        {
            "tree_missing": [SCHED, "COPYING"],
            "tree_extra": {"net/zzz.c": "\n", ".hidden": "\n"},
            "tree_changed": {CONN: "\n"},
        },
        "2 missing, 2 extra, 1 changed",
        ["extra   .hidden", "missing COPYING", f"changed {CONN}", f"missing {SCHED}", "extra   net/zzz.c"],
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_is_refused_when_its_tree(inv: Inv, tmp_path: Path, name: str) -> None:
    variant, judged, rows = TREES[name]
    toy = make_toy(tmp_path / "toy", **variant)
    said = pin(inv, toy, "--json", expect=ExitCode.REFUSED).json
    head = f"the kernel tree in linux-2.6.32-220.23.1.el6.tar.bz2 is not the pinned one: {judged}"
    assert said["what"].splitlines() == [head, *(f"    {row}" for row in rows)]
    wanted = tomllib.loads(toy.line_file.read_text())["sources"]["kernel-srpm"]["tree"]
    more = len(variant.get("tree_extra", {})) - len(variant.get("tree_missing", []))
    assert re.fullmatch(
        rf"wanted git tree {wanted['git-tree']} \({wanted['entries']} entries\), "
        rf"had [0-9a-f]{{40}} \({wanted['entries'] + more} entries\)",
        said["why"],
    )
    assert "extend the line in a file of your own" in said["next"]
    assert_kept(inv, toy, said["where"])


def test_of_very_many_differing_paths_the_first_are_listed_and_the_rest_counted(inv: Inv, tmp_path: Path) -> None:
    extra = {f"net/extra{number:03}.c": "\n" for number in range(50)}
    toy = make_toy(tmp_path / "toy", tree_extra=extra)
    said = pin(inv, toy, "--json", expect=ExitCode.REFUSED).json
    rows = said["what"].splitlines()
    assert rows[0].endswith(": 50 extra")
    assert rows[1:] == [*(f"    extra   {path}" for path in list(extra)[:40]), "    and 10 more"]


def test_the_manifest_of_the_base_line_is_looked_for_beside_the_override_first(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy", tree_missing=[CONN])
    text = toy.line_file.read_text()
    toy.line_file.write_text(text.replace('manifest = "toy.tree.xz"\n', ""))
    (toy.line_file.parent / "el6.tree.xz").write_bytes((toy.line_file.parent / "toy.tree.xz").read_bytes())
    said = pin(inv, toy, "--json", expect=ExitCode.REFUSED).json
    assert said["what"].endswith(f": 1 missing\n    missing {CONN}")


def test_a_refused_pin_leaves_an_earlier_one_alone(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    pin(inv, toy)
    before = lock_file(toy).read_bytes()
    bad = make_toy(tmp_path / "bad", unsigned=True)
    (toy.mirror / SRPM).write_bytes((bad.mirror / SRPM).read_bytes())
    pin(inv, toy, expect=ExitCode.REFUSED)
    assert lock_file(toy).read_bytes() == before
    fetch(inv, toy)
