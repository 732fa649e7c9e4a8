"""What an auditor does with copies from a mirror, as another user of a host without network, git and privileges."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.plainuser import Alone
from tests.fixtures.published import Published
from tests.fixtures.workshop import reachable

pytestmark = pytest.mark.timeout(1200, func_only=True)
OPTION = "CONFIG_IP_VS_TAB_BITS"
COMPILED = "net/netfilter/ipvs/ip_vs_conn.c"


@dataclass
class Mirrored:
    """A toy that was published twice, the second time with another option of the stock kernel, and a CVE record."""

    published: Published
    old: str
    record: Path


@pytest.fixture(scope="module")
def mirrored(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrored]:
    place = tmp_path_factory.mktemp("auditors")
    with Published.opened(images, place) as published:
        shop, old = published.shop, published.shop.latest().name
        with shop.toy.line_file.open("a") as line:
            line.write(f'\n[roles.stock.config]\n{OPTION} = "13"\n')
        shop.all()
        record = place / "CVE-2026-45917.json"
        affected = {"vendor": "Linux", "product": "Linux", "defaultStatus": "affected", "programFiles": [COMPILED]}
        cna = {"title": "ipvs: a fix", "affected": [{**affected, "versions": []}]}
        record.write_text(json.dumps({"cveMetadata": {"cveId": record.stem}, "containers": {"cna": cna}}))
        yield Mirrored(published, old, record)


def audit(mirrored: Mirrored, alone: Alone) -> list[str | Path]:
    return [alone.given(mirrored.published.repo) / "latest", "--policy", alone.given(mirrored.published.policy)]


def identify(mirrored: Mirrored, alone: Alone) -> list[str | Path]:
    [kernel] = (mirrored.published.repo / "latest" / "director").glob("kernel-2*.rpm")
    return [alone.given(kernel), "--expect", "director"]


def trace(mirrored: Mirrored, alone: Alone) -> list[str | Path]:
    return [alone.given(mirrored.published.repo) / "latest", "ip_vs.ko"]


def diff(mirrored: Mirrored, alone: Alone) -> list[str | Path]:
    copied = alone.given(mirrored.published.repo)
    return [copied / "snapshots" / mirrored.old, copied / "latest"]


def cves(mirrored: Mirrored, alone: Alone) -> list[str | Path]:
    """Of a build whose records were copied, without its sources."""
    shop = mirrored.published.shop
    steps = alone.given(shop.inv.artifacts / "steps")
    line = alone.given(shop.toy.line_file.parent) / shop.toy.line_file.name
    return [alone.given(mirrored.record), "--line-file", line, "--artifacts", steps.parent]


def diff_says(found: Any) -> bool:
    names = {row["name"]: row["after"] for step in found["steps"] for row in step["inputs"]}
    return bool(names[f"parameters.options.{OPTION}"] == "13" and found["unsigned"] == found["unknown"] == [])


VERBS: dict[str, tuple[Callable[[Mirrored, Alone], list[str | Path]], Callable[[Any], bool]]] = {
    "audit": (audit, lambda found: found["verdict"] == "pass"),
    "identify": (identify, lambda found: found["packages"][0]["role"] == "director"),
    "trace": (trace, lambda found: any(link["what"] == "patch" for row in found["chains"] for link in row["back"])),
    "diff": (diff, diff_says),
    "cves": (cves, lambda found: [row["compiled"] for row in found["findings"]] == [[COMPILED]]),
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_auditor_needs_no_network_no_privileges_no_git_and_no_place_to_write(mirrored: Mirrored, verb: str) -> None:
    words, holds = VERBS[verb]
    with reachable() as place:
        alone = Alone(place)
        done = alone(verb, *words(mirrored, alone), "--json")
        assert done.status == 0, done.text + done.error_text
        assert holds(json.loads(done.text)), done.text
        assert list(alone.home.iterdir()) == []


def test_the_json_beside_a_page_has_patches_hunk_by_hunk_roles_and_the_bill(mirrored: Mirrored, tmp_path: Path) -> None:
    published, page = mirrored.published, tmp_path / "audit.html"
    out = published.shop.inv("audit", "toy", "--policy", published.policy, "--html", page).out
    assert f"{tmp_path / 'audit.json'} has the same data" in out
    found = json.loads((tmp_path / "audit.json").read_text())
    assert (found["facts"]["verdict"], found["facts"]["line"]) == ("pass", "toy")
    [lvs] = next(row for row in found["patches"] if row["name"] == "director")["patches"]
    text = published.shop.toy.patches["lvs"].read_bytes()
    hunks = [hunk for file in lvs["files"] for hunk in file["hunks"]]
    assert len(hunks) == text.count(b"\n@@ ") - 1, "one was left out"
    assert all(hunk["offset"] == 0 for hunk in hunks) and lvs["left_out"][0]["file"] == ".config"
    assert {row["role"] for row in found["roles"] if row["package"].startswith("kernel-2")} == {
        "director", "realserver", "stock",
    }  # fmt: skip
    files = {path.name for path in (published.repo / "latest").glob("*/*.rpm")}
    assert {row["name"] for row in found["bill"]["packages"]} == files
    assert {row["name"] for row in found["bill"]["sources"]} >= {"Lvs-fullnat-synproxy.tar.gz"}
    assert {row["step"] for row in found["steps"]} >= {"kernel:director", "ipvsadm", "repository"}
