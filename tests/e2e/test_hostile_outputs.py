"""What a build leaves to mislead its reader, by the real command line under every runtime: refused by name, unread."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipeline.audit import dsse
from pipeline.errors import ExitCode
from tests.fixtures.quickline import PACKAGE, QuickLine
from tests.fixtures.toy import userland_sources
from tests.fixtures.workshop import Workshop

SECRET = "hunter2"
ARCH = "/build/RPMS/x86_64"
# What a Makefile does to leave it, and what the error says of it.
LEFT = {
    "a link to a key": ("ln -s {key} {arch}/x.rpm", "RPMS/x86_64/x.rpm: a link; expected"),
    "a link to a device": ("ln -s /dev/zero {arch}/x.rpm", "RPMS/x86_64/x.rpm: a link; expected"),
    "a link to a terminal": ("ln -s /dev/tty {arch}/x.rpm", "RPMS/x86_64/x.rpm: a link; expected"),
    "a manifest": ("echo {url} > {arch}/x.rpm", "RPMS/x86_64/x.rpm: no RPM lead; expected an RPM package"),
    "a FIFO": ("mkfifo {arch}/x.rpm", "RPMS/x86_64/x.rpm: a FIFO; expected"),
    "a directory": ("mkdir {arch}/x.rpm", "RPMS/x86_64/x.rpm: a directory; expected"),
    "a sparse file": (  # as large as the limit of a build lets a file become
        "head -c 96 {lead} > {arch}/x.rpm; truncate -s 15G {arch}/x.rpm", "RPMS/x86_64/x.rpm: 15.0 GiB or more",
    ),
    "a name with an escape": ("touch {arch}/$$'\\e[2Jx.rpm'", "\\x1b[2Jx.rpm: an unexpected name"),
    "an option": ("touch {arch}/-x.rpm", "RPMS/x86_64/-x.rpm: an unexpected name"),
    "a long name": ("touch {arch}/$$(printf %0250d 0).rpm", "00: an unexpected name"),
    "a linked directory": ("rmdir {arch}; mkdir /build/other; ln -s /build/other {arch}", "RPMS/x86_64: neither"),
}  # fmt: skip


class Listening:
    """An HTTP server of the host that counts requests."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_error(404)

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/x.rpm"


@pytest.fixture
def listening() -> Iterator[Listening]:
    made = Listening()
    Thread(target=made.server.serve_forever, daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def key(either: Workshop) -> Path:
    """A file of the host that only its owner may read."""
    path = either.place / "key"
    path.write_text(SECRET)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("kind", list(LEFT))
def test_what_a_build_left_is_read_only_where_it_is_a_plain_file(
    kind: str, either: Workshop, key: Path, listening: Listening
) -> None:
    command, said = LEFT[kind]
    command = command.format(key=key, url=listening.url, arch=ARCH, lead="/build/lead")
    lead = r"printf '\355\253\356\333\3%074d\5%016d' 0 0 | tr 0 '\0' > /build/lead"
    either.line.makefile(f"mkdir -p {ARCH}; {lead.replace('$', '$$')}\n{command}")
    ended = either.build("ipvsadm", expect=ExitCode.BUILD)
    assert "error: ipvsadm: " in ended.err and said in ended.err, ended.err
    assert SECRET not in ended.out + ended.err and "\x1b[2J" not in ended.err
    assert listening.asked == []
    assert not list(either.inv.artifacts.glob("steps/*/*/.failed/out/rpms/*"))
    assert either.left() == {}
    either.inv("status")
    either.line.makefile()
    assert PACKAGE in either.build("ipvsadm").out


def test_a_failed_build_keeps_no_program_that_runs_as_another_user_and_can_be_cleaned(either: Workshop) -> None:
    either.line.makefile(
        "cp /bin/true /build/tmp/door; chmod 6755 /build/tmp/door; mkdir -p a/b; chmod 2777 a; chmod 0 a/b; mkfifo fifo"
        "\nd=$$(printf %0200d 0); for n in $$(seq 40); do mkdir $$d && cd $$d || exit 9; done; exit 1"
    )
    either.build("ipvsadm", expect=ExitCode.BUILD)
    failed = next(either.inv.artifacts.glob("steps/*/ipvsadm/.failed"))
    assert (failed / "scratch/build/tmp/door").stat().st_mode & 0o7777 == 0o755
    assert (failed / "scratch").stat().st_mode & 0o7777 == 0o700
    either.inv("status")
    assert str(failed.relative_to(either.inv.cwd)) in either.inv("clean", "failed").out
    assert not failed.exists()


# --- The compiler cache ----------------------------------------------------------------------------------

POISON = r"""busybox: busybox.c
	printf '#!/bin/sh\necho PREFIX RAN >> /build/said\nexec "$$@"\n' > /ccache/prefix
	chmod +x /ccache/prefix
	printf 'prefix_command = /ccache/prefix\nprefix_command_cpp = /ccache/prefix\n' > /ccache/ccache.conf
	$(CC) -c $< && $(CC) -o $@ busybox.o
"""
MAKEFILE = userland_sources.sources()["busybox"]["Makefile"]
GOOD = "busybox: busybox.c\n\t$(CC) -o $@ $<\n"
LOOKS = "busybox: busybox.c\n\t$(CC) -c $< && $(CC) -o $@ busybox.o\n\tls /ccache; ! cat /build/said\n"
# The compiler as ccache calls it; every call is noted.
COUNTED = r"""busybox: busybox.c
	printf '#!/bin/sh\necho called >> /build/called\nexec gcc "$$@"\n' > gcc-counted
	chmod +x gcc-counted
	$(CC:gcc=./gcc-counted) -Wp,-MMD,busybox.d -c $<
	test "$$(wc -l < /build/called)" = 1
	$(CC) -o $@ busybox.o
"""


def caches(shop: Workshop) -> list[str]:
    found = sorted((shop.inv.artifacts / "ccache").glob("*/*/*"))
    return [re.sub(r"\+[0-9a-f]{8}/", "+/", str(path.relative_to(shop.inv.artifacts))) for path in found]


def test_a_configuration_that_a_build_left_in_its_cache_runs_nothing_in_the_next(either: Workshop) -> None:
    either.line.userland(Makefile=MAKEFILE.replace(GOOD, POISON))
    either.build("userland")
    assert caches(either) == ["ccache/quick+/debian12/userland"]
    more = userland_sources.program("BusyBox v1.35.0", "modules.dep", "modules.alias", "another")
    either.line.userland(Makefile=MAKEFILE.replace(GOOD, LOOKS), busybox_c=more)
    said = either.build("userland", "--json").json
    log = (either.inv.cwd / said["steps"]["userland"]["out"]).with_name("log").read_text()
    assert "ccache.conf" in log, "the cache is the same"
    assert "PREFIX RAN" not in log
    assert said["ccache"]["misses"] == 1, "and it was used"


def test_a_file_that_no_cache_has_is_not_preprocessed_for_the_cache_first(shop: Workshop) -> None:
    shop.line.userland(Makefile=MAKEFILE.replace(GOOD, COUNTED))
    said = shop.build("userland", "--json").json
    assert (said["ccache"]["misses"], said["ccache"]["hits"]) == (1, 0)


def test_another_line_file_a_step_that_needs_none_and_no_ccache_see_no_cache_of_others(shop: Workshop) -> None:
    shop.line.userland(Makefile=MAKEFILE.replace(GOOD, POISON))
    shop.build("userland")
    with QuickLine(shop.place / "other", "other") as other:
        other.userland(Makefile=MAKEFILE.replace(GOOD, GOOD + "\ttest ! -e /ccache/ccache.conf\n"))
        shop.inv("build-all", *other.words, "--only", "userland", "--force", "userland")
        assert caches(shop) == ["ccache/other+/debian12/userland", "ccache/quick+/debian12/userland"]
        other.makefile('test -z "$$(ls -A /ccache)" && test $$CCACHE_DISABLE = 1 && ! touch /ccache/x')
        shop.inv("build-all", *other.words, "--only", "ipvsadm")
        other.userland(Makefile=MAKEFILE.replace(GOOD, GOOD + '\ttest -z "$$(ls -A /ccache)"\n'))
        said = shop.inv("build-all", *other.words, "--only", "userland", "--no-ccache", "--json").json
    assert said["ccache"]["hits"] == said["ccache"]["misses"] == 0
    assert len(caches(shop)) == 2


def test_what_the_writer_fills_others_use_and_no_build_of_theirs_can_change(either: Workshop) -> None:
    remote = either.place / "remote"
    remote.mkdir()
    compiled = "busybox: busybox.c\n\t$(CC) -c $< && $(CC) -o $@ busybox.o\n"
    either.line.userland(Makefile=MAKEFILE.replace(GOOD, compiled))
    either.build("userland", "--ccache-remote", str(remote), "--ccache-writer")
    filled = {path: path.read_bytes() for path in remote.rglob("*") if path.is_file()}
    assert len(filled) > 1
    either.inv("clean", "ccache")
    either.line.userland(Makefile=MAKEFILE.replace(GOOD, f"{compiled}\t! touch /build/ccache-remote/x\n"))
    said = either.build("userland", "--ccache-remote", str(remote), "--json").json
    assert said["ccache"]["misses"] == 0 < said["ccache"]["hits"]
    assert caches(either) == ["ccache/quick+/debian12/userland.remote"]
    assert {path: path.read_bytes() for path in remote.rglob("*") if path.is_file()} == filled
    statement = (either.inv.cwd / said["steps"]["userland"]["out"]).with_name("statement.intoto.json")
    stated = json.loads(dsse.payload(statement.read_bytes()))
    assert f"--ccache-remote {remote}" in " ".join(
        stated["predicate"]["buildDefinition"]["externalParameters"]["options"]
    )
