"""dnf on snapshots: it installs from them, and from nothing that was touched."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.publish import repodata
from pipeline.publish.signing import Signer
from pipeline.publish.snapshot import Snapshot
from tests.fixtures.rpms import WHEN, Dnf, person, rpm
from tests.fixtures.snapshots import changed, flipped, publish, wanted


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """The directory over HTTP on 127.0.0.1; the URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def repo_of(snapshot: Snapshot, name: str = "director") -> str:
    return next(snapshot.path.glob(f"*-{name}.repo")).read_text()


def packages() -> list[Path]:
    """One that needs another, by name and by a file's name."""
    return [rpm("keepalived", "Requires: ipvsadm, /bin/sh"), rpm(), rpm("base", "Provides: /bin/sh")]


@pytest.mark.parametrize("old_readers", [True, False])
def test_dnf_installs_from_a_directory(signer: Signer, root: Path, tmp_path: Path, old_readers: bool) -> None:
    made = publish(wanted(*packages(), baseurl=f"file://{root}", old_readers=old_readers), signer, root)
    dnf = Dnf(tmp_path / "dnf")
    done = dnf.install(repo_of(made), "keepalived")
    assert done.status == 0, done.text + done.error_text
    assert [dnf.installed(name) for name in ("keepalived", "ipvsadm", "base")] == ["one"] * 3


def test_dnf_installs_over_http(signer: Signer, root: Path, tmp_path: Path) -> None:
    root.mkdir(parents=True)
    with served(root) as url:
        made = publish(wanted(*packages(), baseurl=url), signer, root)
        dnf = Dnf(tmp_path / "dnf")
        done = dnf.install(repo_of(made), "keepalived")
    assert done.status == 0, done.text + done.error_text
    assert dnf.installed("keepalived") == dnf.installed("ipvsadm") == "one"


def touched(name: str, change: Callable[[bytes], bytes] | None) -> Callable[[Path], None]:
    """Changes or removes the one file called so."""

    def touch(snapshot: Path) -> None:
        [path] = snapshot.glob(f"director/{name}")
        if change is None:
            path.parent.chmod(0o755)
            path.unlink()
        else:
            changed(path, change)

    return touch


@pytest.mark.parametrize(
    ("touch", "said"),
    [
        (touched("ipvsadm-*.rpm", flipped), "checksum"),
        (
            touched("repodata/repomd.xml", lambda data: data.replace(b"<revision>1", b"<revision>2")),
            "Bad GPG signature",
        ),
        (touched("repodata/*-primary.xml.gz", flipped), "checksum"),
        (touched("repodata/repomd.xml.asc", None), "repomd.xml.asc"),
    ],
    ids=["package", "repomd.xml", "primary.xml.gz", "no repomd.xml.asc"],
)
@pytest.mark.parametrize("over", ["file", "http"])
def test_dnf_refuses_what_was_touched(
    signer: Signer, root: Path, tmp_path: Path, touch: Callable[[Path], None], said: str, over: str
) -> None:
    root.mkdir(parents=True)
    with served(root) as url:
        made = publish(wanted(baseurl=url if over == "http" else f"file://{root}"), signer, root)
        touch(made.path)
        dnf = Dnf(tmp_path / "dnf")
        done = dnf.install(repo_of(made), "ipvsadm")
    assert done.status != 0 and not dnf.installed("ipvsadm")
    assert said in done.text + done.error_text


def test_dnf_refuses_a_repository_of_another_key(signer: Signer, root: Path, tmp_path: Path) -> None:
    made = publish(wanted(baseurl=f"file://{root}"), signer, root)
    public = person("packager").public
    lines = repo_of(made).splitlines()
    other = "\n".join(f"gpgkey=file://{public}" if line.startswith("gpgkey=") else line for line in lines)
    dnf = Dnf(tmp_path / "dnf")
    done = dnf.install(other, "ipvsadm")
    assert done.status != 0 and not dnf.installed("ipvsadm")
    assert "Bad GPG signature" in done.text + done.error_text


def test_dnf_refuses_an_unsigned_package_although_the_metadata_is_signed(
    signer: Signer, root: Path, tmp_path: Path
) -> None:
    """gpgcheck by itself: nothing is wrong with the digests."""
    made = publish(wanted(baseurl=f"file://{root}"), signer, root)
    loose = tmp_path / "loose"
    loose.mkdir()
    shutil.copy(rpm(), loose)
    signer.sign_detached(repodata.create(loose, WHEN, databases=False), WHEN)
    lines = repo_of(made).splitlines()
    other = "\n".join(f"baseurl=file://{loose}" if line.startswith("mirrorlist=") else line for line in lines)
    dnf = Dnf(tmp_path / "dnf")
    done = dnf.install(other, "ipvsadm")
    assert done.status != 0 and not dnf.installed("ipvsadm")
    assert "is not signed" in done.text + done.error_text
