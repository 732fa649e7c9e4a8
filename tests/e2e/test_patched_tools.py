"""ipvsadm and keepalived of lts61 with FULLNAT, built for real: what they take, what they refuse and how they say it.

Nothing here comes as far as asking the kernel: the programs run in the builder image, where their libraries are.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.commands.build import BuildCommand
from pipeline.config import line_loader
from pipeline.config.context import RunContext
from pipeline.config.settings import load
from pipeline.core import process
from pipeline.core.console import Console
from pipeline.core.locks import locked
from pipeline.formats import archive
from tests.fixtures.commandline import ROOT, Inv

FETCHED = ROOT / "artifacts" / "test-cache" / "lts61"  # shared with the tests of the real fetch
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
SERVICE = ("-t", "192.0.2.1:80")

pytestmark = pytest.mark.timeout(1800)


@dataclass(frozen=True)
class Programs:
    """The unpacked packages, and the root file system in which their programs run."""

    rootfs: Path
    unpacked: Path

    def __call__(self, name: str, *words: str, stdin: str = "", files: Mapping[str, str] | None = None) -> Result:
        """Runs a program as root of a namespace without network; `files` are in its directory."""
        place = self.unpacked / "files"
        place.mkdir(exist_ok=True)
        for file, text in (files or {}).items():
            (place / file).write_text(text)
        argv = [
            *("bwrap", "--unshare-all", "--die-with-parent", "--uid", "0", "--gid", "0"),
            *("--ro-bind", str(self.rootfs), "/", "--proc", "/proc", "--dev", "/dev"),
            *("--tmpfs", "/tmp", "--tmpfs", "/run", "--tmpfs", "/mnt"),
            *("--ro-bind", str(self.unpacked), "/mnt/x", "--chdir", "/mnt/x/files", f"/mnt/x/{name}/usr/sbin/{name}"),
            *words,
        ]
        done = process.run(argv, stdin=stdin.encode(), accept=range(256), timeout=60)
        return Result(done.status, done.text, done.error_text)


@dataclass(frozen=True)
class Result:
    """How a program ended, and what it said."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def programs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    names = [spelt for name in PROXIES for spelt in (name, name.upper())]
    own = {name: os.environ[name] for name in names if name in os.environ}
    inv = Inv(tmp_path_factory.mktemp("tools"), APT_CONFIG=os.environ.get("APT_CONFIG", ""), **own)
    inv.patience = 1500.0
    inv.artifacts.mkdir()
    with locked(FETCHED.with_name("lts61.lock")):
        inv("fetch", "lts61", "--artifacts", FETCHED)
    for name, shared in (("store", FETCHED / "store"), ("images", images)):
        (inv.artifacts / name).symlink_to(shared)
    steps = inv("build", "lts61", "ipvsadm", "keepalived", "--json").json["steps"]
    unpacked = tmp_path_factory.mktemp("unpacked")
    for name, step in steps.items():
        [rpm] = (inv.cwd / step["out"] / "rpms").glob("*.rpm")
        archive.unpack(rpm, unpacked / name, rpm.name)
    settings = load({"artifacts": str(images.parent), "quiet": True})
    image = BuildCommand(line_loader.load("lts61"), RunContext(settings, Console(quiet=True))).image()
    return Programs(image.rootfs, unpacked)


def test_ipvsadms_help_needs_no_kernel_and_names_every_word(programs: Programs) -> None:
    done = programs("ipvsadm", "--help")
    assert (done.status, done.err) == (0, "")
    for word in ("--fullnat", "--add-laddr", "--edit-laddr", "--del-laddr", "--get-laddr", "--laddr"):
        assert word in done.out
    page = gzip.decompress((programs.unpacked / "ipvsadm/usr/share/man/man8/ipvsadm.8.gz").read_bytes()).decode()
    assert all(word in page for word in ("--fullnat", "--add-laddr", "--edit-laddr", "--del-laddr", "--get-laddr"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--add-laddr", "--laddr", "198.51.100.1"), "supply the 'service-address' option"),
        (("--add-laddr", *SERVICE), "supply the 'laddr' option"),
        (("--add-laddr", *SERVICE, "--laddr", "name"), "invalid local address `name' specified"),
        (("--add-laddr", *SERVICE, "--laddr", "198.51.100.256"), "invalid local address"),
        (("--add-laddr", *SERVICE, "--laddr", "224.0.0.1"), "is not a unicast address"),
        (("--add-laddr", *SERVICE, "--laddr", "198.51.100.1:80"), "expected MIN-MAX in 1-65535"),
        (("--add-laddr", *SERVICE, "--laddr", "198.51.100.1:0-5"), "expected MIN-MAX in 1-65535"),
        (("--add-laddr", *SERVICE, "--laddr", "198.51.100.1:6-5"), "expected MIN-MAX in 1-65535"),
        (("--add-laddr", *SERVICE, "--laddr", "198.51.100.1:5-65536"), "expected MIN-MAX in 1-65535"),
        (("--add-laddr", *SERVICE, "--laddr", "2001:db8::1"), "FULLNAT serves IPv4 only"),
        (("--add-laddr", "-t", "[2001:db8::1]:80", "--laddr", "198.51.100.1"), "FULLNAT serves IPv4 only"),
        (("--del-laddr", *SERVICE, "--laddr", "198.51.100.1:5-6"), "give no ports"),
        (("--get-laddr", "--laddr", "198.51.100.1"), "Illegal 'laddr' option"),
        (("-a", *SERVICE, "-r", "198.51.100.9:80", "--fullnat", "-m"), "multiple 'forwarding-method' options"),
        (("-a", "-t", "[2001:db8::1]:80", "-r", "[2001:db8::2]:80", "--fullnat"), "FULLNAT serves IPv4 only"),
        (("-a", "--sctp-service", "192.0.2.1:80", "-r", "198.51.100.9", "--fullnat"), "FULLNAT serves TCP and UDP"),
    ],
)
def test_ipvsadm_refuses_by_name_what_fullnat_cannot_be_told(
    programs: Programs, words: tuple[str, ...], said: str
) -> None:
    done = programs("ipvsadm", *words)
    assert (done.status, done.out) == (2, "")
    assert said in done.err


def test_a_wrong_line_ends_a_restore_before_the_kernel_is_asked(programs: Programs) -> None:
    table = "--add-laddr -t 192.0.2.1:80 --laddr 198.51.100.1:9-1\n-A -t 192.0.2.2:80 -s rr\n"
    done = programs("ipvsadm", "-R", stdin=table)
    assert done.status == 2
    assert "invalid ports of local address `198.51.100.1:9-1'" in done.err


GROUP = "local_address_group one {\n 198.51.100.1\n 198.51.100.4-6 port 5000-5999\n 198.51.100.250-198.51.101.2\n}\n"
SERVER = """\
virtual_server 192.0.2.1 80 {
 lvs_sched rr
 lb_kind FNAT
 laddr_group_name one
 protocol TCP
 real_server 198.51.100.99 8080 {
  weight 1
 }
}
"""


def test_keepalived_takes_groups_of_local_addresses(programs: Programs) -> None:
    done = programs("keepalived", "-t", "-f", "conf", files={"conf": GROUP + SERVER})
    assert (done.status, done.err) == (0, "")
    page = gzip.decompress(
        (programs.unpacked / "keepalived/usr/share/man/man5/keepalived.conf.5.gz").read_bytes()
    ).decode()
    assert "local_address_group" in page and "laddr_group_name" in page
    sample = (programs.unpacked / "keepalived/usr/share/doc/keepalived/samples/keepalived.conf.fullnat").read_text()
    assert programs("keepalived", "-t", "-f", "conf", files={"conf": sample}).err == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (" laddr_group_name one\n", "", "FNAT needs local addresses, laddr_group_name is missing - ignoring"),
        ("laddr_group_name one", "laddr_group_name two", "local_address_group two is not configured - ignoring"),
        ("lb_kind FNAT", "lb_kind NAT", "laddr_group_name one has no effect without lb_kind FNAT"),
        ("lb_kind FNAT", "lb_kind FULLNAT", "unknown [FULLNAT] routing method"),
        ("protocol TCP", "protocol SCTP", "FNAT serves TCP and UDP only, not SCTP - ignoring"),
        (" 198.51.100.1\n", " 198.51.100.1 port 9\n", "invalid ports 9 of 198.51.100.1, must be MIN-MAX"),
        (" 198.51.100.1\n", " 198.51.100.1 port 9-1\n", "invalid ports 9-1 of 198.51.100.1"),
        (" 198.51.100.1\n", " 198.51.100.1 5000-5999\n", "after 198.51.100.1 only 'port MIN-MAX' may follow"),
        (" 198.51.100.1\n", " 198.51.100.5\n", "198.51.100.5 is there already"),
        (" 198.51.100.1\n", " 2001:db8::1\n", "FULLNAT serves IPv4 only, not 2001:db8::1"),
        (" 198.51.100.1\n", " 10.0.0.0-10.1.0.0\n", "has more than 1024 addresses"),
        (" 198.51.100.1\n", " 198.51.100.9-7\n", "range end is less than range start"),
        (GROUP, GROUP + GROUP, "local_address_group one is configured twice"),
    ],
)
def test_keepalived_names_what_is_wrong_with_local_addresses(programs: Programs, old: str, new: str, said: str) -> None:
    text = GROUP + SERVER
    assert text.count(old) == 1
    done = programs("keepalived", "-t", "-f", "conf", files={"conf": text.replace(old, new)})
    assert done.status != 0
    assert said in done.err
