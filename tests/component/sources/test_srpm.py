"""A source RPM is pinned only when it is proven, fetched only when it is pinned, and proven only once."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tempfile
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import process
from pipeline.core.fs import sha256_of
from pipeline.errors import ExitCode
from tests.fixtures.agedkeys import AgedKey
from tests.fixtures.badserver import BadServer, good, page, redirect, truncated, unannounced
from tests.fixtures.commandline import AUTHOR, Ended, Inv
from tests.fixtures.toy import NVR, SRPM, TARBALL, Toy, make_toy

CONN = "net/netfilter/ipvs/ip_vs_conn.c"
SCHED = "net/netfilter/ipvs/ip_vs_sched.c"
PROGRAMS = ("rpm", "rpmkeys", "rpm2archive", "gpg", "git")


@pytest.fixture
def inv(tmp_path: Path) -> Inv:
    return Inv(tmp_path)


def pin(inv: Inv, toy: Toy, *options: str, expect: int = ExitCode.OK, **variables: str) -> Ended:
    return inv("pin", "toy", "kernel-srpm", "--line-file", toy.line_file, *options, expect=expect, **variables)


def fetch(inv: Inv, toy: Toy, *options: str, expect: int = ExitCode.OK, **variables: str) -> Ended:
    return inv("fetch", "--line-file", toy.line_file, *options, expect=expect, **variables)


def lock_file(toy: Toy) -> Path:
    return toy.line_file.with_name("toy.lock.toml")


def locked(toy: Toy) -> dict[str, Any]:
    """The one pin in the lock file."""
    pins = tomllib.loads(lock_file(toy).read_text())
    assert list(pins) == ["kernel-srpm"]
    return dict(pins["kernel-srpm"])


def served(toy: Toy, server: BadServer) -> Toy:
    """The toy's line with its files on `server`."""
    for name in (SRPM, TARBALL):
        server.at(f"/{name}", good((toy.mirror / name).read_bytes()))
    text = toy.line_file.read_text()
    assert toy.mirror.as_uri() in text
    toy.line_file.write_text(text.replace(toy.mirror.as_uri(), server.url()))
    return toy


def test_pin_writes_what_was_proven_and_by_whom(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    begun = datetime.now(UTC).replace(microsecond=0)
    ended = pin(inv, toy)
    written = locked(toy)
    assert (written["sha256"], written["size"]) == (sha256_of(toy.mirror / SRPM), (toy.mirror / SRPM).stat().st_size)
    assert (written["signer"], written["fingerprint"]) == ("toy", toy.key_fingerprint)
    assert (written["nevra"], written["by"]) == (NVR, AUTHOR)
    assert timedelta() <= datetime.fromisoformat(written["pinned"]) - begun < timedelta(minutes=5)
    assert written["url"].endswith(f"/{SRPM}")
    line = tomllib.loads(toy.line_file.read_text())["sources"]["kernel-srpm"]
    assert (written["spec"], written["tree"]) == (line["spec"]["known"]["toy"], line["tree"]["git-tree"])
    assert "written to" in ended.out and "commit it" in ended.out


def at_addresses(toy: Toy, *addresses: str) -> None:
    """The source package's own addresses, in order."""
    text, old = toy.line_file.read_text(), f'"{toy.mirror.as_uri()}/{SRPM}"'
    assert text.count(old) == 1
    toy.line_file.write_text(text.replace(old, ", ".join(f'"{address}"' for address in addresses)))


def bad_files(inv: Inv) -> list[bytes]:
    return [path.read_bytes() for path in (inv.store / "bad").iterdir()]


def test_pin_goes_on_to_the_next_address_and_says_what_was_wrong_with_each(inv: Inv, tmp_path: Path) -> None:
    toy, other = make_toy(tmp_path / "toy"), make_toy(tmp_path / "other", unsigned=True)
    body, another = (each.mirror.joinpath(SRPM).read_bytes() for each in (toy, other))
    cut = body[: -len(body) // 4]
    with BadServer() as server, BadServer() as portal:
        portal.at("/login", page("Sign in &amp; wait", announced=False))
        at_addresses(
            toy,
            server.at("/page.src.rpm", page("Sign in")),
            server.at("/portal.src.rpm", redirect(portal.url("/login"))),
            server.at("/cut.src.rpm", unannounced(body, len(cut))),
            server.at("/headers.src.rpm", good(body[:200])),
            server.at("/empty.src.rpm", good(b"")),
            server.at("/another.src.rpm", good(another)),
            server.at("/good.src.rpm", good(body)),
        )
        ended = pin(inv, toy)
    assert (locked(toy)["sha256"], locked(toy)["url"][-13:]) == (sha256_of(toy.mirror / SRPM), "/good.src.rpm")
    for address, said in {
        "page": "expected a source package, got a web page with the title 'Sign in'; of type text/html",
        "portal": f"a web page with the title 'Sign in & wait'; redirected to {portal.url('/login')}, of type text/",
        "cut": f"an RPM of {len(cut)} bytes whose own headers announce {len(body)}",
        "headers": "an RPM of 200 bytes whose headers are not whole: not an RPM package: it ends too early",
        "empty": "nothing at all: no byte came",
        "another": "the package's signature or digests are not good",
    }.items():
        assert [
            line for line in ended.err.splitlines() if f"/{address}.src.rpm gave wrong bytes" in line and said in line
        ], ended.err
    assert len(bad_files(inv)) == 6 and {cut, another, b""} < set(bad_files(inv))
    assert objects(inv) == {locked(toy)["sha256"]}


def test_pin_that_no_address_serves_says_what_each_gave(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    body = (toy.mirror / SRPM).read_bytes()
    with BadServer() as server:
        at_addresses(toy, *(server.at(f"/{name}.src.rpm", page(name)) for name in ("one", "two")))
        ended = pin(inv, toy, expect=ExitCode.REFUSED)
        assert "a web page with the title 'one'" in ended.err and "a web page with the title 'two'" in ended.err
        server.at("/one.src.rpm", truncated(body, 100))
        server.at("/two.src.rpm", page("two"))
        ended = pin(inv, toy, "--retries", "1", expect=ExitCode.REFUSED)
    assert "expected a source package, got a web page with the title 'two'" in ended.err
    assert f"{server.url('/two.src.rpm')}, kept as " in ended.err
    assert not lock_file(toy).exists() and objects(inv) == set()


def test_the_lock_file_is_the_only_thing_pin_writes_beside_the_line(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    before = {path.name for path in toy.line_file.parent.iterdir()}
    pin(inv, toy)
    assert {path.name for path in toy.line_file.parent.iterdir()} == before | {"toy.lock.toml"}


def test_pin_as_json_says_the_same_as_the_lock_file(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    said = pin(inv, toy, "--json").json
    assert said["pin"] == locked(toy)
    assert (said["line"], said["source"], said["lock"]) == ("toy", "kernel-srpm", str(lock_file(toy)))


def test_without_a_git_identity_nothing_is_pinned_nor_fetched(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    inv.git_config.write_text("[user]\n\tname = Ada Example\n")
    ended = pin(inv, toy, expect=ExitCode.USAGE)
    assert "error: git has no identity" in ended.err
    assert "next: git config --global user.name" in ended.err
    assert not lock_file(toy).exists() and not inv.store.exists()


def test_the_repository_of_the_current_directory_does_not_say_who_pinned(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    process.run(["git", "init", "-q", str(inv.cwd)])
    process.run(["git", "-C", str(inv.cwd), "config", "user.name", "Another"])
    pin(inv, toy)
    assert locked(toy)["by"] == AUTHOR


def test_without_git_the_host_lacks_a_program(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    (tmp_path / "no-programs").mkdir()
    ended = pin(inv, toy, expect=ExitCode.HOST, PATH=str(tmp_path / "no-programs"))
    assert "error: the program git is not installed" in ended.err
    assert not lock_file(toy).exists()


def test_only_what_has_no_digest_can_be_pinned(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    for name in ("lvs-tarball", "no-such"):
        ended = inv("pin", "toy", name, "--line-file", toy.line_file, expect=ExitCode.USAGE)
        assert f"{name} is no source of toy to pin" in ended.err and "those are: kernel-srpm" in ended.err


def test_fetch_without_a_pin_is_refused_with_the_command_that_pins(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    ended = fetch(inv, toy, expect=ExitCode.REFUSED)
    assert "error: kernel-srpm of the line toy is not pinned yet" in ended.err
    assert f"next: ./inv pin toy kernel-srpm --line-file {toy.line_file}\n" in ended.err
    said = fetch(inv, toy, "--json", expect=ExitCode.REFUSED).json
    assert (said["error"], said["exit_code"], said["where"]) == ("Refused", 4, str(lock_file(toy)))


def test_the_command_it_names_can_be_typed_as_it_stands(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "a toy's place")
    said = fetch(inv, toy, "--json", expect=ExitCode.REFUSED).json
    program, *words = shlex.split(said["next"])
    assert program == "./inv"
    inv(*words)
    fetch(inv, toy)


def test_what_is_pinned_otherwise_is_fetched_even_when_the_srpm_is_refused(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    fetch(inv, toy, expect=ExitCode.REFUSED)
    assert objects(inv) == {sha256_of(toy.mirror / TARBALL)}


def objects(inv: Inv) -> set[str]:
    """The digests of what is in the store."""
    return {path.name for path in (inv.store / "sha256").glob("*/*")}


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


# Two valid files bear the name: CentOS's and Red Hat's.


def two_signers(place: Path, *, signed_by: str) -> Toy:
    """A line that trusts the keys `toy` and `old`, with an SRPM signed by the one called `signed_by`."""
    toy, old = make_toy(place / "toy"), make_toy(place / "old", expired=True)
    (toy.line_file.parent / "old-key.asc").write_bytes((old.line_file.parent / "toy-key.asc").read_bytes())
    text = toy.line_file.read_text().replace('signers = ["toy"]', 'signers = ["toy", "old"]')
    table = f'\n[keys.old]\ntitle = "Old key"\nfingerprint = "{old.key_fingerprint}"\nfiles = ["old-key.asc"]\n'
    table += "expired = 2020-12-31\n"
    toy.line_file.write_text(text + table)
    if signed_by == "old":
        (toy.mirror / SRPM).write_bytes((old.mirror / SRPM).read_bytes())
    return toy


@pytest.mark.parametrize("signed_by", ["toy", "old"])
def test_of_two_known_signers_the_lock_says_which_one_it_was(inv: Inv, tmp_path: Path, signed_by: str) -> None:
    toy = two_signers(tmp_path, signed_by=signed_by)
    pin(inv, toy)
    keys = tomllib.loads(toy.line_file.read_text())["keys"]
    assert (locked(toy)["signer"], locked(toy)["fingerprint"]) == (signed_by, keys[signed_by]["fingerprint"])
    how = fetch(inv, toy, "--json").json["sources"][0]["how"]
    expired = " of 2020-01-01, and the key expired on 2020-12-31" if signed_by == "old" else ""
    assert how.endswith(f"good signature by {signed_by} ({keys[signed_by]['fingerprint']}){expired}")


def test_a_key_that_cannot_be_had_is_said_and_the_other_one_does(inv: Inv, tmp_path: Path) -> None:
    toy = two_signers(tmp_path, signed_by="toy")
    (toy.line_file.parent / "old-key.asc").unlink()
    ended = pin(inv, toy)
    assert "warning: the key old (" in ended.err and "its signatures will be refused" in ended.err
    assert locked(toy)["signer"] == "toy"


def test_without_any_key_nothing_is_pinned_and_the_places_are_named(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    (toy.line_file.parent / "toy-key.asc").unlink()
    said = pin(inv, toy, "--json", expect=ExitCode.UNREACHABLE).json
    assert said["what"] == f"the key toy ({toy.key_fingerprint}) could not be fetched"
    assert "toy-key.asc" in said["why"] and "keys/FINGERPRINT.asc" in said["next"]
    assert not lock_file(toy).exists()


def test_a_key_file_with_another_key_is_said(inv: Inv, tmp_path: Path) -> None:
    toy, old = make_toy(tmp_path / "toy"), make_toy(tmp_path / "old", expired=True)
    (toy.line_file.parent / "toy-key.asc").write_bytes((old.line_file.parent / "toy-key.asc").read_bytes())
    said = pin(inv, toy, "--json", expect=ExitCode.UNREACHABLE).json
    assert f"wanted {toy.key_fingerprint}, had {old.key_fingerprint}" in said["why"]


# A line of one's own is never taken for the project's.


def test_an_override_is_called_one_in_output_json_and_evidence(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    pinned = pin(inv, toy)
    ended, said = fetch(inv, toy), fetch(inv, toy, "--json").json
    notice = (
        f"warning: not the line el6: {toy.line_file} (sha256 {sha256_of(toy.line_file)[:16]}…) overrides keys.toy, "
    )
    for run in (pinned, ended):
        assert run.err.startswith(notice) and "sources.kernel-srpm.tree.git-tree" in run.err
        assert run.out.startswith("line toy (OVERRIDES el6)")
    evidence = json.loads((inv.artifacts / "evidence" / "toy" / "sources.json").read_text())
    for document in (said, evidence):
        assert document["line"] == "toy"
        assert (document["override"]["base"], document["override"]["file"]) == ("el6", str(toy.line_file))
        assert document["override"]["sha256"] == sha256_of(toy.line_file)
        assert "sources.kernel-srpm.tree.git-tree" in document["override"]["changes"]


def test_quiet_does_not_hide_the_notice_of_an_override(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    pin(inv, toy)
    ended = fetch(inv, toy, "--quiet")
    assert [line.partition(":")[0] for line in ended.err.splitlines()] == ["warning"]


def test_nothing_is_left_of_a_proof_but_its_record(inv: Inv, tmp_path: Path) -> None:
    pin(inv, make_toy(tmp_path / "toy"))
    assert list(inv.tmp.iterdir()) == [] and list(inv.home.iterdir()) == []
    assert list((inv.artifacts / "scratch").iterdir()) == []
    assert inv.living(0) == []


# The state of a key: what is known of it now.


def house(tmp_path: Path) -> tuple[Toy, AgedKey]:
    """A toy whose source package an aged key has signed, in 2022."""
    toy = make_toy(tmp_path / "toy")
    with tempfile.TemporaryDirectory(prefix="k-") as short:  # a socket must fit
        signer = AgedKey.made(Path(short) / "h")
        signed = signer.sign_rpm(tmp_path, 2022, package=toy.mirror / SRPM)
        (toy.mirror / SRPM).write_bytes(signed.read_bytes())
        shutil.copytree(signer.home, tmp_path / "h", ignore=shutil.ignore_patterns("S.*"))
    signer = AgedKey(tmp_path / "h", signer.fingerprint)
    text = toy.line_file.read_text().replace(toy.key_fingerprint, signer.fingerprint)
    toy.line_file.write_text(text)
    (toy.line_file.parent / "toy-key.asc").write_bytes(signer.public)
    return toy, signer


def test_a_key_that_was_kept_is_judged_again_once_its_revocation_is_known(inv: Inv, tmp_path: Path) -> None:
    toy, signer = house(tmp_path)
    pin(inv, toy)
    fetch(inv, toy)
    signer.revoke("compromised", 2023)
    (toy.line_file.parent / "toy-key.asc").write_bytes(signer.public)
    for verb in (fetch, pin):
        said = verb(inv, toy, "--json", expect=ExitCode.REFUSED).json
        assert said["why"] == "the key was revoked on 2023-01-01: compromised"
    (toy.line_file.parent / "toy-key.asc").unlink()
    assert "compromised" in pin(inv, toy, "--json", expect=ExitCode.REFUSED).json["why"], "the store remembers"


def test_an_expired_key_needs_a_line_that_accepts_it(inv: Inv, tmp_path: Path) -> None:
    toy, signer = house(tmp_path)
    signer.expire(2021, 2023)
    (toy.line_file.parent / "toy-key.asc").write_bytes(signer.public)
    said = pin(inv, toy, "--json", expect=ExitCode.REFUSED).json
    assert said["what"] == "the key toy has expired, and the line file does not say that this is accepted"
    assert "`expired = 2022-12-31` under [keys.toy]" in said["next"]
    text = toy.line_file.read_text()
    toy.line_file.write_text(text.replace("[keys.toy]\n", "[keys.toy]\nexpired = 2022-12-31\n"))
    pin(inv, toy)
    assert fetch(inv, toy, "--json").json["sources"][0]["how"].endswith(" and the key expired on 2022-12-31")
    toy.line_file.write_text(text.replace("[keys.toy]\n", "[keys.toy]\nexpired = 2021-12-31\n"))
    said = fetch(inv, toy, "--json", expect=ExitCode.REFUSED).json
    assert said["what"] == "the key toy had expired when the package was signed"


def test_a_revocation_that_an_earlier_run_saw_counts_for_what_was_proven_before(inv: Inv, tmp_path: Path) -> None:
    toy, signer = house(tmp_path)
    pin(inv, toy)
    fetch(inv, toy)
    key, before = toy.line_file.parent / "toy-key.asc", signer.public
    signer.revoke("compromised", 2023)
    key.write_bytes(signer.public)
    fetch(inv, toy, expect=ExitCode.REFUSED)
    key.write_bytes(before)
    said = fetch(inv, toy, "--json", expect=ExitCode.REFUSED).json
    assert said["why"] == "the key was revoked on 2023-01-01: compromised"


def test_a_revocation_that_a_mirror_brings_counts_for_what_was_proven_before(inv: Inv, tmp_path: Path) -> None:
    toy, signer = house(tmp_path)
    pin(inv, toy)
    fetch(inv, toy)
    signer.revoke("compromised", 2023)
    brought = tmp_path / "brought" / "keys" / f"{signer.fingerprint}.asc"
    brought.parent.mkdir(parents=True)
    brought.write_bytes(signer.public)
    for options in (["--mirror", str(tmp_path / "brought")], []):
        said = fetch(inv, toy, *options, "--json", expect=ExitCode.REFUSED).json
        assert said["why"] == "the key was revoked on 2023-01-01: compromised"
