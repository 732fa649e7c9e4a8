"""The line lts61 for real: through the host's own apt archive, with Debian's own keys, then without any network.

What was fetched is kept below artifacts/, so that a second test run in the same clone downloads nothing.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.line_loader import load
from pipeline.config.line_model import DebianSource
from pipeline.core import process
from pipeline.core.fs import sha256_of
from pipeline.core.locks import locked
from tests.fixtures.commandline import ROOT, Inv

CACHE = ROOT / "artifacts" / "test-cache" / "lts61"
PINNED = ("ipvsadm", "keepalived", "busybox", "iptables")
DEBIAN_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def inv(tmp_path_factory: pytest.TempPathFactory) -> Inv:
    """The command line with the host's own apt and proxies, for this is about the host's own network."""
    names = [spelt for name in PROXIES for spelt in (name, name.upper())]
    own = {name: os.environ[name] for name in (*names, "no_proxy", "NO_PROXY") if name in os.environ}
    return Inv(tmp_path_factory.mktemp("lts61"), APT_CONFIG=os.environ.get("APT_CONFIG", ""), **own)


@pytest.fixture(scope="module")
def fetched(inv: Inv) -> Any:
    """What the first `fetch lts61` reports; other test processes of this clone wait meanwhile."""
    with locked(CACHE.with_name("lts61.lock")):
        return inv("fetch", "lts61", "--json", "--artifacts", CACHE).json


def test_every_source_is_verified_with_digests_from_the_signed_index(fetched: Any) -> None:
    assert fetched["line"] == "lts61" and fetched["override"] is None
    sources = {source["name"]: source for source in fetched["sources"]}
    assert tuple(sources) == ("linux", *PINNED)
    for source in sources.values():
        assert source["how"].startswith("digest in Debian's signed index of "), source
        assert {"bookworm", "bookworm-security"} <= set(re.split(r"[ ;]", source["how"]))
        assert_in_store(source)
    assert sources["linux"]["version"].startswith("6.1.")
    for name in PINNED:
        pinned = load("lts61").data.sources[name]
        assert isinstance(pinned, DebianSource)
        assert sources[name]["sha256"] == pinned.sha256
        assert sources[name]["version"].startswith(pinned.version), "a prefix stands for Debian's own revisions"


def assert_in_store(source: Any) -> None:
    path = CACHE / "store" / "sha256" / source["sha256"][:2] / source["sha256"]
    assert path.stat().st_size == source["size"]
    assert sha256_of(path) == source["sha256"]


def test_the_digests_are_what_debians_signature_covers(fetched: Any) -> None:
    """Followed by hand: gpgv for InRelease, its digest for Sources, and the digest there for the file."""
    listed: set[tuple[str, str, str]] = set()
    for release in (CACHE / "apt" / "lts61" / "lists").glob("*_InRelease"):
        sources = next(release.parent.glob(release.name.removesuffix("InRelease") + "main_source_Sources*"))
        signed = process.run(["gpgv", "--keyring", DEBIAN_KEYS, "--output", "-", release]).text
        assert hashlib.sha256(sources.read_bytes()).hexdigest() in signed
        assert sources.suffix == ".xz", "kept as signed"
        listed |= set(rows(lzma.decompress(sources.read_bytes()).decode()))
    for source in fetched["sources"]:
        assert (source["sha256"], str(source["size"]), source["file"]) in listed


def rows(index: str) -> Iterator[tuple[str, str, str]]:
    """Digest, size and name of every file in a Sources index."""
    for stanza in re.findall(r"^Checksums-Sha256:\n((?: .*\n)+)", index, re.MULTILINE):
        for row in stanza.splitlines():
            digest, size, name = row.split()
            yield digest, size, name


def test_the_evidence_says_what_the_run_said(fetched: Any) -> None:
    evidence = json.loads((CACHE / "evidence" / "lts61" / "sources.json").read_text())
    assert evidence == fetched


def test_a_second_run_without_any_network_succeeds(fetched: Any, inv: Inv) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        dead: dict[str, Any] = {spelt: proxy for name in PROXIES for spelt in (name, name.upper())} | {
            "no_proxy": "",
            "NO_PROXY": "",
        }
        stand_ins = inv.without_programs("apt-get", "apt-cache", "apt-config", "dpkg", "gpg")
        ended = inv("fetch", "lts61", "--offline", "--artifacts", CACHE, **(dead | stand_ins))
    assert f"{1 + len(PINNED)} sources verified, nothing fetched" in ended.out
    assert inv.called == ""
    for source in fetched["sources"]:
        assert f"{source['sha256'][:16]}…" in ended.out


def test_the_hosts_own_apt_lists_are_not_what_it_reads(fetched: Any) -> None:
    conf = (CACHE / "apt" / "lts61" / "apt.conf").read_text()
    assert f'Dir::State::lists "{CACHE}/apt/lts61/lists"' in conf


def test_no_download_is_left_half_done(fetched: Any) -> None:
    assert list((CACHE / "store" / "partial").glob("*")) == []
    assert not Path(CACHE / "store" / "bad").exists()


def test_packages_that_are_built_twice_in_a_sandbox_have_the_same_bytes(fetched: Any, inv: Inv) -> None:
    """Those that take seconds; the kernel takes the same way."""
    inv.patience = 1200
    where = ("--line", "lts61", "--json", "--artifacts", CACHE)
    image = inv("image", *where).json
    assert Path(image["package_list"]).is_file() and image["packages"] > 100 and image["bytes"] > 100 << 20
    again = inv("image", *where).json
    assert (again["made"], again["key"]) == (False, image["key"])
    said = inv("build", "ipvsadm", "role-packages", "--check-reproducible", "--force", "ipvsadm", *where).json
    assert [(row["step"], row["same"]) for row in said["compared"]] == [
        ("ipvsadm", True), ("role-packages", True), ("role-packages", True),
    ]  # fmt: skip
    assert said["steps"]["ipvsadm"]["state"] == "ran" and said["snapshot"] is None
    for row, package in zip(said["compared"], said["packages"], strict=True):
        assert row["first"] == package["sha256"] == sha256_of(Path(package["unsigned"]))
