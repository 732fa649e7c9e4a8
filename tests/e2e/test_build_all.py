"""The build command for real on lts61: compiled, packaged, signed and published, and free the second time.

Its kernel is the small one of README's command for trying: a full one is compiled three times as long, for drivers.
`FNAT_TEST_KERNEL_CONFIG=full ./inv test` is the same with all of them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.locks import locked
from pipeline.core.process import run
from pipeline.errors import ExitCode
from pipeline.formats import rpm_header
from pipeline.publish import layout, signers
from pipeline.publish.verify import verify_snapshot
from tests.fixtures.commandline import ROOT, Inv

CACHE = ROOT / "artifacts" / "test-cache"
LOCK = CACHE / "build-all.lock"  # exclusive for those who change what others use at the same time
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
KERNEL, TOOLS = {"kernel", "kernel-devel", "kernel-headers"}, {"ipvsadm", "keepalived"}
SETS = {
    "director": KERNEL | TOOLS | {"kmod-lvs-fullnat", "lvs-fnat-director"},
    "realserver": KERNEL | {"lvs-toa", "lvs-fnat-realserver"},
    "stock": KERNEL | TOOLS,  # a role's package requires what makes the role
}
PATIENCE = 4500.0  # seconds; with a full kernel it took more than 3000 beside other tests on a slow machine
CONFIG = os.environ.get("FNAT_TEST_KERNEL_CONFIG", "small")
DIRECTORY = layout.directory_of("lts61", small=CONFIG == "small")

pytestmark = pytest.mark.timeout(600, func_only=True)  # a fixture compiles for longer, with a limit of its own


class Built:
    """What one `build-all` left, and the command line that made it."""

    def __init__(self, place: Path, images: Path) -> None:
        names = [spelt for name in PROXIES for spelt in (name, name.upper())]
        own = {name: os.environ[name] for name in names if name in os.environ}
        own |= {"APT_CONFIG": os.environ.get("APT_CONFIG", ""), "FNAT_KERNEL_CONFIG": CONFIG}
        self.inv = Inv(place, FNAT_NO_SMOKE="no", **own)
        self.inv.patience = PATIENCE
        self.artifacts = CACHE / "build-all"
        self.artifacts.mkdir(parents=True, exist_ok=True)
        if not (self.artifacts / "images").exists():
            (self.artifacts / "images").symlink_to(images)
        self.first = self("--json").json

    def __call__(self, *words: str, **more: str) -> Any:
        return self.inv(
            "build-all", "--line", "lts61", "--artifacts", self.artifacts, *words, expect=ExitCode.OK, **more
        )

    @property
    def latest(self) -> Path:
        return (self.artifacts / "repo" / DIRECTORY / "latest").resolve()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Built:
    with locked(LOCK):
        return Built(tmp_path_factory.mktemp("build-all"), images)


def test_every_role_and_tool_is_in_a_signed_repository(built: Built) -> None:
    document = verify_snapshot(built.latest, signers.recorded_fingerprint(built.artifacts, DIRECTORY))
    assert {role: {rpm_header.read(path).name for path in (built.latest / role).glob("*.rpm")} for role in SETS} == SETS
    assert len(document.packages) == len(set.union(*SETS.values()))
    assert document.key.development
    assert "NOT for production" in (built.latest / "README").read_text() or "development" in document.key.identity


KINDS = {
    "kernel": ("kernel", "stock", []),
    "kernel-devel": ("neither kernel, modules nor tool", "no kernel", []),
    "ipvsadm": ("director's tool", "director", []),
    "keepalived": ("director's tool", "director", []),
    "kmod-lvs-fullnat": ("modules for a kernel", "director", [200]),
    "lvs-toa": ("TOA reader for stock kernels", "realserver", [200]),
    "lvs-fnat-director": ("neither kernel, modules nor tool", "no kernel", []),
}


def test_each_package_is_what_it_is_by_its_content_and_the_pairs_work(built: Built) -> None:
    packages = {rpm_header.read(path).name: path for name in SETS for path in (built.latest / name).glob("*.rpm")}
    found = {}
    for name in KINDS:
        (row,) = built.inv("identify", packages[name], "--json").json["packages"]
        assert row["problems"] == []
        found[name] = (row["kind"], row["role"], [number for option in row["options"] for number in option["numbers"]])
    assert found == KINDS
    for pair in (("kernel", "kmod-lvs-fullnat"), ("kmod-lvs-fullnat", "lvs-toa"), ("ipvsadm", "kmod-lvs-fullnat")):
        assert built.inv("identify", *(packages[name] for name in pair), "--json").json["pair"]["works"] is True
    called_server = built.inv(
        "identify", packages["kmod-lvs-fullnat"], "--expect", "realserver", expect=ExitCode.REFUSED
    )
    assert "the guide's mistake" in called_server.out


def test_the_second_run_builds_nothing_asks_nobody_and_is_quick(built: Built) -> None:
    stand_ins = built.inv.without_programs(
        "bwrap", "mmdebstrap", "rpmbuild", "apt-get", "gpg", "rpmsign", "createrepo_c"
    )
    closed = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    begun = time.monotonic()
    again = built("--json", "--offline", **stand_ins, **closed).json
    assert {step["state"] for step in again["steps"].values()} == {"reused"}
    assert built.inv.called == ""
    assert time.monotonic() - begun < 60


def test_explain_says_which_input_would_make_a_step_run(built: Built) -> None:
    told = built("--json", "--dry-run", "--baseurl", "http://elsewhere.example/repo").json["steps"]
    assert told["repository"] == {"would": "ran", "why": "changed: baseurl"}
    assert told["kernel:stock"]["would"] == "reused"


def test_a_removed_snapshot_is_published_again(built: Built) -> None:
    gone = built.latest
    with locked(LOCK):
        run(["chmod", "-R", "u+w", gone])  # by hand, since we would not remove the latest one
        run(["rm", "-r", gone])
        again = built("--json").json
    assert again["steps"]["repository"]["state"] == "ran"
    assert again["steps"]["kernel:stock"]["state"] == "reused"
    verify_snapshot(built.latest, signers.recorded_fingerprint(built.artifacts, DIRECTORY))


def test_the_log_begins_with_the_command_that_reproduces_it(built: Built) -> None:
    for name in ("kernel-stock", "ipvsadm", "keepalived", "role-packages"):
        runs = (built.artifacts / "steps/lts61" / name).glob("[!.]*/log")  # those of earlier code are kept
        log = max(runs, key=lambda path: path.stat().st_mtime)
        assert log.read_text().startswith("# reproduce: ./inv build-all --only ")
