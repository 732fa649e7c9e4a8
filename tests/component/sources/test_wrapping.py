"""Files out of texts that hold them: asked last, verified twice, never decoded from another text, and said whence."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path

import pytest

from pipeline.config.line_model import Wrapped
from pipeline.core import faults, process
from pipeline.sources import preflight
from pipeline.sources.wanted import Wanted
from tests.fixtures import badserver as bad
from tests.fixtures.badserver import BadServer, good, then, truncated
from tests.fixtures.commandline import ROOT, Inv
from tests.fixtures.downloads import BODY, DIGEST, NAME, NEWER, Bench
from tests.fixtures.pinning import objects, pin
from tests.fixtures.stores import assert_intact
from tests.fixtures.toy import TARBALL, make_toy

AFTER = "DATA=$(cat << EOF"


def script(data: bytes, before: str = "EOF") -> bytes:
    """A script that holds `data` between two lines, among others."""
    lines = ["#!/bin/bash", AFTER, base64.b64encode(data).decode(), before, ")", "touch /tmp/must-not-run", ""]
    return "\n".join(lines).encode()


SCRIPT = script(BODY)


def copy(url: str, text: bytes = SCRIPT) -> Wrapped:
    """The address of such a script, pinned."""
    pins = {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    return Wrapped.model_validate({"url": url, "unwrap": "base64", "after": AFTER, "before": "EOF", **pins})


def origin(wrapped: Wrapped) -> str:
    return f"{wrapped.url} (sha256 {wrapped.sha256}), base64 after '{AFTER}'"


def kept(bench: Bench) -> list[bytes]:
    """What the store keeps as evidence of wrong bytes."""
    return [path.read_bytes() for path in (bench.store.root / "bad").glob("*")]


# --- served ----------------------------------------------------------------------------------------------


def test_when_all_addresses_are_dead_the_wrapped_copy_serves_and_the_store_says_so(bench: Bench) -> None:
    wrapped = copy(bench.server.at("/install.sh", good(SCRIPT)))
    dead = "http://127.0.0.1:1/f", bench.server.url("/gone"), bench.server.at("/lying", bad.wrong(BODY))
    had = bench.gets_it(*dead, wrapped=(wrapped,))
    assert had.url == bench.store.origin(DIGEST) == origin(wrapped)
    assert {attempt.url for attempt in had.attempts} == set(dead)
    assert {path.name for path in (bench.store.root / "sha256").glob("*/*")} == {DIGEST}
    assert bench.gets_it(wrapped=(wrapped,)).url is None
    assert bench.server.count("/install.sh") == 1


def test_it_is_not_asked_while_an_address_or_a_mirror_has_the_file(bench: Bench, tmp_path: Path) -> None:
    wrapped = copy(bench.server.at("/install.sh", good(SCRIPT)))
    bench.gets_it(bench.server.at("/f", good(BODY)), wrapped=(wrapped,))
    bench.store.path(DIGEST).unlink()
    (tmp_path / NAME).write_bytes(BODY)
    bench.gets_it(wrapped=(wrapped,), mirrors=(str(tmp_path),))
    assert bench.server.count("/install.sh") == 0


def test_a_broken_transfer_of_the_text_is_resumed(bench: Bench) -> None:
    url = bench.server.at("/install.sh", then(truncated(SCRIPT, 1000), good(SCRIPT)))
    had = bench.gets_it(wrapped=(copy(url),))
    assert [attempt.what for attempt in had.attempts] == [f"broke off at 1000 of {len(SCRIPT)} bytes"]
    assert bench.ranges("/install.sh") == [None, "bytes=1000-"]


def test_a_text_in_a_local_file_is_unwrapped_without_network(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "install.sh").write_bytes(SCRIPT)
    wrapped = copy((tmp_path / "install.sh").as_uri())
    had = bench.gets_it(bench.server.at("/f", good(BODY)), wrapped=(wrapped,), offline=True)
    assert had.url == origin(wrapped).replace("file://", "")
    assert bench.server.count() == 0


def test_offline_no_server_is_asked_for_it(bench: Bench) -> None:
    url = bench.server.at("/install.sh", good(SCRIPT))
    assert f"{url}: not requested: offline" in str(bench.gives_up(wrapped=(copy(url),), offline=True))
    assert bench.server.count() == 0


def test_a_dead_copy_is_told_as_any_address_and_the_next_one_asked(bench: Bench) -> None:
    dead, fine = copy(bench.server.url("/gone.sh")), copy(bench.server.at("/install.sh", good(SCRIPT)))
    assert f"{dead.url}: HTTP 404 Not Found" in str(bench.gives_up(wrapped=(dead,)))
    assert bench.gets_it(wrapped=(dead, fine)).url == origin(fine)


def test_the_preflight_asks_it_too(bench: Bench) -> None:
    wanted = Wanted(
        NAME, ("http://127.0.0.1:1/f",), DIGEST, len(BODY), wrapped=(copy(bench.server.url("/install.sh")),)
    )
    [missing] = preflight.probe([wanted], bench.options)
    assert [attempt.url for attempt in missing.attempts] == ["http://127.0.0.1:1/f", bench.server.url("/install.sh")]
    bench.server.at("/install.sh", good(SCRIPT))
    assert preflight.probe([wanted], bench.options) == []


# --- refused ---------------------------------------------------------------------------------------------


def test_another_text_is_not_decoded_though_it_holds_the_file(bench: Bench) -> None:
    other = SCRIPT.replace(b"touch", b"rm -f")
    wrapped = copy(bench.server.at("/install.sh", good(other)), other.replace(b"rm -f", b"touch"))
    refused = bench.refuses(wrapped=(wrapped,))
    assert f"another file than the pinned wrapper; expected sha256 {wrapped.sha256}" in str(refused)
    assert hashlib.sha256(other).hexdigest() in str(refused) and wrapped.url in str(refused)
    assert kept(bench) == [other]


def test_a_text_with_another_file_inside_is_refused_with_both_digests(bench: Bench) -> None:
    text = script(NEWER)
    refused = bench.refuses(wrapped=(copy(bench.server.at("/install.sh", good(text)), text),))
    assert f"the file after '{AFTER}': sha256 {hashlib.sha256(NEWER).hexdigest()}; expected {DIGEST}" in str(refused)
    assert kept(bench) == [text]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SCRIPT.replace(b"DATA", b"FILE"), f"line '{AFTER}': 0 in the text; expected 1"),
        (script(BODY, before="END"), "line 'EOF': not found; expected one after line 2"),
        (SCRIPT.replace(b"EOF\n", b"EOF\n$\n", 1), r"line 3: b'$' at column 1; expected base64"),
        (script(BODY + b"more"), f"400008 characters of base64; expected 400000, for {len(BODY)} bytes"),
    ],
    ids=["no-marker", "no-end", "no-base64", "too-large"],
)
def test_a_pinned_text_that_cannot_be_unwrapped_is_refused_with_its_line(bench: Bench, text: bytes, said: str) -> None:
    lying = copy(bench.server.at("/lying.sh", good(text)), text)
    assert said in str(bench.refuses(wrapped=(lying,)))
    assert kept(bench) == [text]
    fine = copy(bench.server.at("/install.sh", good(SCRIPT)))
    assert bench.gets_it(wrapped=(lying, fine)).url == origin(fine)


def test_a_text_larger_than_its_pin_is_never_read_to_its_end(bench: Bench) -> None:
    announced = copy(bench.server.at("/announced.sh", good(SCRIPT + b"\n")))
    endless = copy(bench.server.at("/endless.sh", bad.endless(SCRIPT)))
    refused = bench.refuses(wrapped=(announced, endless))
    assert f"announces {len(SCRIPT) + 1} bytes, wanted {len(SCRIPT)}" in str(refused)
    [evidence] = kept(bench)
    assert len(SCRIPT) < len(evidence) < len(SCRIPT) + (2 << 20)


# --- killed, and as a whole ------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from pipeline.config.line_model import Wrapped
from pipeline.core.console import Console, PlainProgress
from pipeline.sources.download import fetch
from pipeline.sources.store import Store
from pipeline.sources.wanted import Options, Wanted

root, wrapped, sha256, size = sys.argv[1:]
wanted = Wanted("f", (), sha256, int(size), wrapped=(Wrapped.model_validate_json(wrapped),))
options = Options((), False, jobs=1, retries=1, stall=5.0, connect=5.0)
fetch(wanted, Store(Path(root)), options, PlainProgress(Console()).meter("f"))
"""


POINTS = ["download.part-written", "download.done", "verify.done:1", "verify.done:2", "publish.before-rename"]


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_anywhere_spoils_nothing_and_the_next_one_completes(bench: Bench, point: str) -> None:
    wrapped = copy(bench.server.at("/install.sh", good(SCRIPT)))
    arguments = [str(bench.store.root), wrapped.model_dump_json(by_alias=True), DIGEST, str(len(BODY))]
    environment = process.clean_environment(no_proxy="127.0.0.1", **{faults.VARIABLE: point})
    with process.start([sys.executable, "-c", CHILD, *arguments], env=environment, cwd=ROOT) as child:
        _, err = child.communicate(timeout=60)
    assert child.returncode == -9, err.decode()
    assert_intact(bench.store)
    assert not bench.store.has(DIGEST)
    bench.gets_it(wrapped=(wrapped,))
    assert bench.store.origin(DIGEST) == origin(wrapped)


def test_a_line_whose_addresses_are_dead_is_fetched_and_its_evidence_names_the_wrapping(tmp_path: Path) -> None:
    inv, toy = Inv(tmp_path), make_toy(tmp_path / "toy")
    tarball = (toy.mirror / TARBALL).read_bytes()
    text = toy.line_file.read_text()
    with BadServer() as server:
        wrapped = copy(server.at("/install.sh", good(script(tarball))), script(tarball))
        table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in wrapped.model_dump(by_alias=True).items())
        for old, new in {
            f"{toy.mirror.as_uri()}/{TARBALL}": server.url("/gone.tar.gz"),
            "wrapped = []": f"wrapped = [{{ {table} }}]",
        }.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        toy.line_file.write_text(text)
        pin(inv, toy)
        inv("fetch", "--line-file", toy.line_file)
        inv("patches", "--line-file", toy.line_file, "--offline")
    assert {hashlib.sha256(tarball).hexdigest()} < objects(inv)
    evidence = json.loads((inv.artifacts / "evidence/toy/sources.json").read_text())
    [row] = [row for row in evidence["sources"] if row["name"] == "lvs-tarball"]
    assert row["origin"] == origin(wrapped)
    assert server.count("/gone.tar.gz") == 1
