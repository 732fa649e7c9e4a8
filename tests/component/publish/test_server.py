"""The HTTP server of repositories: what clients need of it, and what it gives to nobody."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import HostLacks, UsageError
from pipeline.publish import server
from tests.fixtures.commandline import HEARING, Inv

BODY = bytes(range(256)) * 40


class Served:
    """A tree that is served on a free port."""

    def __init__(self, root: Path, port: int, log: list[str]) -> None:
        self.root, self.port, self.log = root, port, log

    def __call__(self, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        """Requests a path as it is written; the answer's body is its `data`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        answer.data = answer.read()  # type: ignore[attr-defined]
        connection.close()
        return answer


def body(answer: http.client.HTTPResponse) -> bytes:
    data: bytes = answer.data  # type: ignore[attr-defined]
    return data


@contextmanager
def serving(root: Path) -> Iterator[Served]:
    log: list[str] = []
    with server.opened(root, "127.0.0.1:0", log.append) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield Served(root, running.port, log)
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    root = tmp_path / "repo"
    (root / "el6/snapshots/one/director/repodata").mkdir(parents=True)
    (root / "el6/snapshots/one/director/a.rpm").write_bytes(BODY)
    (root / "el6/snapshots/one/el6-director.repo").write_text("[x]\n")
    (root / "el6/latest").symlink_to("snapshots/one")
    (root / "el6/mirrorlist-director").write_text("http://x/\n")
    (root / "el6/.lock").write_text("pid 1")
    (root / "el6/.making-x").mkdir()
    (root / "el6/.making-x/half.rpm").write_text("half")
    (root / "el6/shown").symlink_to(".making-x")
    (tmp_path / "secret").write_text("secret")
    (root / "out").symlink_to("../secret")
    (root / "above").symlink_to("..")
    (root / "dangling").symlink_to("nowhere")
    (root / "circle").symlink_to("circle")
    with serving(root) as found:
        yield found


RPM = "/el6/snapshots/one/director/a.rpm"


def test_a_file_comes_whole_also_through_the_link_to_the_latest(served: Served) -> None:
    for path in (RPM, "/el6/latest/director/a.rpm"):
        answer = served(path)
        assert (answer.status, body(answer)) == (200, BODY)
        assert answer.headers["Content-Length"] == str(len(BODY)) and answer.headers["Accept-Ranges"] == "bytes"
        assert len(answer.headers.get_all("Date", [])) == 1
    head = served(RPM, "HEAD")
    assert (head.status, body(head), head.headers["Content-Length"]) == (200, b"", str(len(BODY)))


@pytest.mark.parametrize(
    ("wanted", "first", "end"),
    [("0-9", 0, 10), ("10200-", 10200, 10240), ("-5", 10235, 10240), ("10-99999", 10, 10240)],
)
def test_a_range_is_what_was_requested_of_it(served: Served, wanted: str, first: int, end: int) -> None:
    answer = served(RPM, Range=f"bytes={wanted}")
    assert (answer.status, body(answer)) == (206, BODY[first:end])
    assert answer.headers["Content-Range"] == f"bytes {first}-{end - 1}/10240"


def test_a_range_that_is_not_there_or_of_an_older_file_is_not_given(served: Served) -> None:
    assert served(RPM, Range="bytes=10240-").status == 416
    tag = served(RPM).headers["ETag"]
    assert served(RPM, Range="bytes=0-9", If_Range=tag).status == 206
    whole = served(RPM, Range="bytes=0-9", If_Range='"another"')
    assert (whole.status, len(body(whole))) == (200, len(BODY))


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "items=0-1", "bytes=abc", "bytes=5-1", "x", ""])
def test_a_range_of_another_kind_is_ignored(served: Served, wanted: str) -> None:
    answer = served(RPM, Range=wanted)
    assert (answer.status, body(answer)) == (200, BODY)


@pytest.mark.parametrize("address", ["http://[x/y", "/x y"])
def test_a_request_that_cannot_be_read_is_answered_and_logged_on_one_line(served: Served, address: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as raw:
        raw.sendall(f"GET {address} HTTP/1.1\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert len(served.log) == 1 and served.log[0].endswith(" 400")
    assert served(RPM).status == 200


def test_a_file_that_did_not_change_is_not_sent_again(served: Served) -> None:
    answer = served("/el6/mirrorlist-director")
    tag, when = answer.headers["ETag"], answer.headers["Last-Modified"]
    assert served("/el6/mirrorlist-director", If_None_Match=tag).status == 304
    assert served("/el6/mirrorlist-director", If_Modified_Since=when).status == 304
    assert answer.headers["Cache-Control"] == "no-cache", "a proxy must not show an old list"
    (served.root / "el6/new").write_text("http://y/\n")
    (served.root / "el6/new").replace(served.root / "el6/mirrorlist-director")
    assert body(served("/el6/mirrorlist-director", If_None_Match=tag)) == b"http://y/\n"


@pytest.mark.parametrize(
    "path",
    [
        *("/out", "/above/secret", "/../secret", "/el6/../../secret", "/%2e%2e/secret", "/el6/%2e%2e/%2e%2e/secret"),
        *("/el6/..%2f..%2fsecret", "//secret", "/el6/.lock", "/el6/.making-x/half.rpm", "/el6/shown/half.rpm"),
        *("/dangling", "/circle", "/", "/el6", "/el6/", "/el6/latest", "/nowhere", "/a%00b", "/el6/latest/a.rpm/x"),
        "/" + "a" * 5000,
    ],
)
def test_nothing_but_files_of_the_tree_is_found(served: Served, path: str) -> None:
    answer = served(path)
    assert answer.status == 404 and b"secret" not in body(answer) and b"half" not in body(answer)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "MKCOL"])
def test_it_is_read_only(served: Served, method: str) -> None:
    answer = served(RPM, method)
    assert answer.status == 405 and set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("kernel-6.1.rpm", "application/x-rpm"),
        ("repodata/repomd.xml", "application/xml; charset=utf-8"),
        ("repodata/repomd.xml.asc", "application/pgp-signature"),
        ("repodata/0f-primary.xml.gz", "application/gzip"),
        ("repodata/0f-primary.sqlite.bz2", "application/x-bzip2"),
        ("keys/RPM-GPG-KEY-lvs-fullnat-1a2b3c4d", "application/pgp-keys"),
        ("snapshot.json", "application/json"),
        ("lts61-director.repo", "text/plain; charset=utf-8"),
        ("mirrorlist-director", "text/plain; charset=utf-8"),
    ],
)
def test_each_file_has_its_type(served: Served, name: str, kind: str) -> None:
    (served.root / name).parent.mkdir(exist_ok=True)
    (served.root / name).write_text("x")
    answer = served(f"/{name}")
    assert (answer.headers["Content-Type"], answer.headers["Content-Encoding"]) == (kind, None)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_clients_are_answered_at_once(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as silent:
        silent.sendall(b"GET / HT")
        answers = list[int]()
        threads = [threading.Thread(target=lambda: answers.append(served(RPM).status)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert answers == [200] * 20


def test_each_answer_is_logged_on_one_line(served: Served) -> None:
    served(RPM)
    with socket.create_connection(("127.0.0.1", served.port)) as raw:
        raw.sendall(b"GET /x\x1b[31m HTTP/1.0\r\n\r\n")
        while raw.recv(4096):
            pass
    assert served.log[0] == f"127.0.0.1 GET {RPM} HTTP/1.1 200"
    assert len(served.log) == 2


@pytest.mark.parametrize("listen", ["8000", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ":80", "127.0.0.1:-1"])
def test_an_address_that_is_none_is_a_mistake(tmp_path: Path, listen: str) -> None:
    with pytest.raises(UsageError, match="expected ADDRESS:PORT"), server.opened(tmp_path, listen, print):
        pass


def test_an_address_in_use_is_the_hosts_fault(served: Served, tmp_path: Path) -> None:
    with (
        pytest.raises(HostLacks, match="Address already in use"),
        server.opened(tmp_path, f"127.0.0.1:{served.port}", print),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_verb_serves_until_it_is_interrupted(inv: Inv, number: signal.Signals) -> None:
    (inv.artifacts / "repo/el6").mkdir(parents=True)
    (inv.artifacts / "repo/el6/mirrorlist-x\x1b").write_text("y")
    argv = [*HEARING, *inv.argv("serve", "--listen", "127.0.0.1:0")]
    with subprocess.Popen(
        argv, env=inv.environment(), cwd=inv.cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout
        found = re.search(r"http://127.0.0.1:(\d+)/", child.stdout.readline())
        assert found
        assert body(Served(Path(), int(found[1]), [])("/el6/mirrorlist-x%1b")) == b"y"
        os.kill(child.pid, number)
        _, said = child.communicate(timeout=20)
    assert child.returncode == 0 and "Traceback" not in said and "\x1b" not in said
    assert "GET /el6/mirrorlist-x%1b HTTP/1.1 200" in said
