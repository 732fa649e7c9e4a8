"""Clients that read a repository through fifty publications: dnf in a loop, and reads as yum 3.2 does them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import random
import re
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.formats import rpm_header
from pipeline.publish import signing
from pipeline.publish.signing import Signer
from pipeline.publish.snapshot import Snapshot, make_snapshot, move_latest
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import Dnf, person, place_of_its_own, rpm, shared_keys
from tests.fixtures.snapshots import wanted

PUBLICATIONS, PREPARED = 50, 6
_REPO = "{http://linux.duke.edu/metadata/repo}"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def inv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inv]:
    with place_of_its_own(tmp_path, monkeypatch) as found:
        yield found


@contextlib.contextmanager
def serving(inv: Inv) -> Iterator[str]:
    """`./inv serve` as a process of its own; the URL."""
    (inv.artifacts / "repo").mkdir(parents=True)
    argv, quiet = inv.argv("serve", "--listen", "127.0.0.1:0", "--quiet"), subprocess.DEVNULL
    with subprocess.Popen(
        argv, env=inv.environment(), cwd=inv.cwd, text=True, stdout=subprocess.PIPE, stderr=quiet
    ) as child:
        try:
            assert child.stdout
            yield re.findall(r"http://[\d.:]+", child.stdout.readline())[0]
        finally:
            child.terminate()


def versions(number: int) -> list[Path]:
    """Two packages of the snapshot of this number: one with a version of its own, one that differs by content alone."""
    return [rpm(release=f"fnat.{number}"), rpm("perf", text=f"content {number}")]


def publication(url: str, signer: Signer, root: Path, number: int) -> Snapshot:
    return make_snapshot(wanted(*versions(number), baseurl=url), signer, root)


class OldYum:
    """A reader that makes the requests of yum 3.2: the list, repomd.xml and its signature, the database, packages."""

    def __init__(self, url: str, signer: Signer, place: Path) -> None:
        self.url, self.signer, self.place = url, signer, place
        self.packages: dict[str, str] = {}  # digests by path, of the metadata that is cached
        self.begun = 0
        place.mkdir()

    def get(self, url: str) -> bytes:
        with _OPENER.open(url, timeout=20) as answer:
            data: bytes = answer.read()
        return data

    def mirrors(self) -> list[str]:
        """The addresses of the list; what is no URL is skipped."""
        lines = self.get(f"{self.url}/el6/mirrorlist-director").decode().splitlines()
        return [line for line in lines if re.match(r"\w+://\S+\s*$", line)]

    def refresh(self, mirrors: list[str]) -> None:
        """Reads the metadata, all of it from the first address."""
        repomd, signature = self.place / "repomd.xml", self.place / "repomd.xml.asc"
        repomd.write_bytes(self.get(f"{mirrors[0]}repodata/repomd.xml"))
        signature.write_bytes(self.get(f"{mirrors[0]}repodata/repomd.xml.asc"))
        signing.check_detached(repomd, signature, self.signer.key.public)
        for data in ET.parse(repomd).getroot().iter(f"{_REPO}data"):
            if data.get("type") == "primary_db":
                location, checksum = data.find(f"{_REPO}location"), data.find(f"{_REPO}checksum")
                assert location is not None and checksum is not None
                packed = self.get(f"{mirrors[0]}{location.attrib['href']}")
                assert hashlib.sha256(packed).hexdigest() == checksum.text
                (self.place / "primary.sqlite").write_bytes(gzip.decompress(packed))
        with contextlib.closing(sqlite3.connect(self.place / "primary.sqlite")) as database:
            self.packages = dict(database.execute("SELECT location_href, pkgId FROM packages"))

    def fetch(self, mirrors: list[str], href: str) -> None:
        """Gets a package from the first address that has it with the digest of the metadata."""
        for mirror in mirrors:
            with contextlib.suppress(urllib.error.HTTPError):
                if hashlib.sha256(self.get(f"{mirror}{href}")).hexdigest() == self.packages[href]:
                    return
        raise AssertionError(f"{href} of the metadata is at none of {mirrors}")

    def __call__(self) -> None:
        """One run; of three, two go by metadata that was read earlier, and by the list as it is now."""
        mirrors = self.mirrors()
        if self.begun % 3 == 0:
            self.refresh(mirrors)
            mirrors = self.mirrors() if self.begun % 2 else mirrors
        self.begun += 1
        for href in self.packages:
            self.fetch(mirrors, href)


class Loop(threading.Thread):
    """A client that begins again until it is ended or has failed."""

    def __init__(self, client: Callable[[], None]) -> None:
        super().__init__()
        self.client, self.runs, self.failure = client, 0, ""
        self.over = threading.Event()

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.client()
                self.runs += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the test says it
            self.failure = f"run {self.runs}: {error!r}"


def test_no_client_fails_through_fifty_publications(inv: Inv, tmp_path: Path) -> None:
    root = inv.artifacts / "repo"
    with serving(inv) as url, signing.open_signer("", shared_keys()) as signer:
        made = [publication(url, signer, root, number) for number in range(PREPARED)]
        move_latest(made[0].path)
        dnf = Dnf(tmp_path / "dnf")
        dnf.add((made[0].path / "el6-director.repo").read_text())

        def download() -> None:
            refresh = ["--refresh"] if loops[0].runs % 3 == 0 else []
            done = dnf(*refresh, "--downloadonly", "install", "ipvsadm", "perf")
            assert done.status == 0, done.text + done.error_text
            for package in dnf.root.rglob("packages/*.rpm"):
                package.unlink()

        loops = [Loop(download), Loop(OldYum(url, signer, tmp_path / "yum"))]
        for loop in loops:
            loop.start()
        draw = random.Random(50)
        try:
            for number in range(PUBLICATIONS):
                if number % 10 == 9:  # a new one, as a night makes it
                    made.append(publication(url, signer, root, PREPARED + number))
                move_latest(draw.choice([one for one in made if one.path != made[0].latest.resolve()]).path)
                time.sleep(0.1)
        finally:
            for loop in loops:
                loop.over.set()
                loop.join()
    assert [loop.failure for loop in loops] == ["", ""]
    assert loops[0].runs >= 3 and loops[1].runs >= 20, "they were there while it happened"


def test_a_key_is_rolled_over_in_the_order_of_the_docs(inv: Inv, tmp_path: Path) -> None:
    """New key beside the old one, clients import it, switch: docs/publishing.md."""
    root, old, new = inv.artifacts / "repo", person("old"), person("new")
    with serving(inv) as url:

        def published(key: Path, number: int) -> Snapshot:
            with signing.open_signer(str(key), tmp_path / "keys") as signer:
                made = publication(url, signer, root, number)
            move_latest(made.path)
            return made

        first = published(old.secret, 1)
        before = Dnf(tmp_path / "before")
        assert before.install((first.path / "el6-director.repo").read_text(), "ipvsadm").status == 0
        both = Dnf(tmp_path / "both")
        text = (first.path / "el6-director.repo").read_text()
        both.add(re.sub(r"^gpgkey=.*$", rf"\g<0> file://{new.public}", text, flags=re.MULTILINE))
        assert both("install", "ipvsadm").status == 0

        second = published(new.secret, 2)
        refused = before("--refresh", "upgrade", "ipvsadm")
        assert refused.status != 0 and "Bad GPG signature" in refused.text + refused.error_text
        accepted = both("--refresh", "upgrade", "ipvsadm")
        assert accepted.status == 0, accepted.text + accepted.error_text
        query = ["rpm", "--root", str(both.root), "-q", "--qf", "%{RELEASE} %{SIGPGP:pgpsig}", "ipvsadm"]
        said = both.inside(*query).text
        assert said.startswith("fnat.2 ") and new.fingerprint[-16:].lower() in said

        third = published(new.secret, 1)
    bodies = [
        {path.name: rpm_header.body_sha256(path, rpm_header.read(path)) for path in made.path.glob("director/*.rpm")}
        for made in (first, third)
    ]
    assert bodies[0] == bodies[1] and first.id != third.id and second.id != third.id
