"""A source RPM is pinned only when it is proven, and the lock file says by whom."""

from __future__ import annotations

import shlex
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.core.fs import sha256_of
from pipeline.errors import ExitCode
from tests.fixtures.badserver import BadServer, good, page, redirect, truncated, unannounced
from tests.fixtures.commandline import AUTHOR, Inv
from tests.fixtures.pinning import bad_files, fetch, lock_file, locked, objects, pin
from tests.fixtures.toy import NVR, SRPM, TARBALL, Toy, make_toy


@pytest.fixture
def inv(tmp_path: Path) -> Inv:
    return Inv(tmp_path)


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
        "headers": "an RPM of 200 bytes whose headers are not whole: not an RPM package: truncated",
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
        assert f"source of toy to pin {name!r}: not found" in ended.err and "known: kernel-srpm" in ended.err


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
