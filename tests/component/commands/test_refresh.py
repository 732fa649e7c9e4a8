"""`./inv patches LINE --refresh` in a checkout of its own: all files are replaced, once they are proven, or none."""

from __future__ import annotations

import difflib
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import faults, process
from pipeline.core.fs import sha256_of
from pipeline.errors import ExitCode
from pipeline.formats.git_tree import blob_id
from tests.fixtures.badserver import BadServer
from tests.fixtures.commandline import ROOT, Ended, Inv
from tests.fixtures.debianarchive import SUITE, Archive
from tests.fixtures.patches import TREE, changed, plain, source
from tests.fixtures.quickline import tarball

FLAG, CONN, SYNPROXY = "include/linux/ip_vs.h", "net/netfilter/ipvs/ip_vs_conn.c", "net/netfilter/ipvs/ip_vs_synproxy.c"
FLAGS = ("#define IP_VS_CONN_F_FULLNAT 5", "#define TCPOPT_ADDR  200")
ONE = {**TREE, FLAG: changed(TREE[FLAG], "int flag_20(void);", *FLAGS), SYNPROXY: "int synproxy(void);\n"}
TWO = {**ONE, CONN: changed(ONE[CONN], "int conn_40(void);", "int fullnat(void);")}
TOOL = {"ipvsadm.c": source("main"), "list.c": source("list")}
TOOL_PATCHES = {
    "ipvsadm/0001-one.patch": plain(
        "ipvsadm.c", TOOL["ipvsadm.c"], changed(TOOL["ipvsadm.c"], "int main_30(void);", "f")
    ),
    "ipvsadm/0002-two.patch": plain("list.c", TOOL["list.c"], changed(TOOL["list.c"], "int list_30(void);", "fullnat")),
}
BUILD = """
[build]
recipe = "debian-tarball"
images = ["debian12"]
specs = "lts61"
dist = ".deb"
kernel-series = "6.1"
glibc-max = "2.34"
init = "systemd"

[sources.ipvsadm]
kind = "debian"
package = "ipvsadm"
version = "1:1."
"""
HEAD = "# A comment that stays.\n\n"
RULES = """\
[rules.director]
must-add = ["net/netfilter/ipvs/ip_vs_synproxy.c"]
must-touch = ["include/linux/ip_vs.h"]
must-not-touch = ["net/toa/"]
must-contain = ["IP_VS_CONN_F_FULLNAT"]
option-define = "TCPOPT_ADDR"
option-number = 200
"""


def patch(before: Mapping[str, str], after: Mapping[str, str]) -> bytes:
    paths = sorted(path for path in after if before.get(path) != after[path])
    return b"Subject: [PATCH] ours\n\n" + b"".join(plain(path, before.get(path, ""), after[path]) for path in paths)


PATCHES = {"director/0001-one.patch": patch(TREE, ONE), "director/0002-two.patch": patch(ONE, TWO)}
EFFECTS: dict[str, dict[str, str]] = {"one": {FLAG: ONE[FLAG], SYNPROXY: ONE[SYNPROXY]}, "two": {CONN: TWO[CONN]}}


def series_toml() -> str:
    text = HEAD + RULES
    for (file, data), (name, effect) in zip(PATCHES.items(), EFFECTS.items(), strict=True):
        text += f'\n[patches.{name}]\nrole = "director"\nfile = "{file}"  # ours\n'
        text += f'sha256 = "{hashlib.sha256(data).hexdigest()}"\n\n[patches.{name}.effect]\n'
        text += "".join(f'"{path}" = "{blob_id(body.encode())}"\n' for path, body in effect.items())
    return text


def patched_tool(tree: Mapping[str, str]) -> dict[str, str]:
    """The tool's files as its two patches leave them."""
    return {
        "ipvsadm.c": changed(tree["ipvsadm.c"], "int main_30(void);", "f"),
        "list.c": changed(tree["list.c"], "int list_30(void);", "fullnat"),
    }


class Checkout:
    """A copy of the project with a line `deb` of two patches, and the archive its kernel is from."""

    def __init__(self, place: Path, server: BadServer) -> None:
        self.place, self.archive = place / "checkout", Archive(server)
        for name in ("pipeline", "lines", "containers", "specs"):
            shutil.copytree(ROOT / name, self.place / name)
        for name in ("inv", "tasks.py"):
            shutil.copy(ROOT / name, self.place)
        self.patches = self.place / "patches" / "deb"
        for name, data in PATCHES.items():
            (self.patches / name).parent.mkdir(parents=True, exist_ok=True)
            (self.patches / name).write_bytes(data)
        (self.patches / "notes").write_text("no file of the series\n")
        (self.patches / "series.toml").write_text(series_toml())
        line = self.archive.write_line(self.place / "lines", version="6.1.")
        text = line.read_text().replace('kernel = "6.1"\n', 'kernel = "6.1"\nkernel-source = "linux"\n')
        line.write_text(text + '[roles.director]\nbuildid = ".fullnat"\nseries = ["one", "two"]\n')
        self.inv = Inv(place / "run", PYTHONPATH=str(self.place))
        self.release("6.1.9", TREE)

    def release(self, version: str, tree: Mapping[str, str]) -> None:
        """Debian has this kernel now."""
        self.archive.add(SUITE, "linux", f"{version}-1", tarball(f"linux-{version}", tree))
        self.archive.publish()

    def tool(self, version: str, tree: Mapping[str, str]) -> None:
        """Debian has this ipvsadm now, which the line has two patches for."""
        self.archive.add(SUITE, "ipvsadm", f"1:{version}-1", tarball(f"ipvsadm-{version}", tree))
        self.archive.publish()
        line, series = self.place / "lines" / "deb.toml", self.patches / "series.toml"
        if "[build]" in line.read_text():
            return
        line.write_text(line.read_text() + BUILD)
        rows = ['\n[tools.ipvsadm]\nmust-contain = ["fullnat"]\n']
        for name, data in TOOL_PATCHES.items():
            (self.patches / name).parent.mkdir(exist_ok=True)
            (self.patches / name).write_bytes(data)
            rows.append(
                f'\n[[tools.ipvsadm.patches]]\nfile = "{name}"\nsha256 = "{hashlib.sha256(data).hexdigest()}"\n'
            )
        rows.append("\n[tools.ipvsadm.effect]\n")
        rows += [f'"{name}" = "{blob_id(text.encode())}"\n' for name, text in patched_tool(tree).items()]
        series.write_text(series.read_text() + "".join(rows))

    def __call__(self, *words: str, expect: int = ExitCode.OK, **variables: str) -> Ended:
        mirror = ("--debian-mirror", self.archive.url)
        return self.inv("patches", "deb", *mirror, *words, expect=expect, **variables)

    def refresh(self, *words: str, expect: int = ExitCode.OK, **variables: str) -> Ended:
        return self("--refresh", *words, expect=expect, **variables)

    def killed(self, point: str) -> None:
        """A refresh that is killed at a point."""
        argv = self.inv.argv("patches", "deb", "--debian-mirror", self.archive.url, "--refresh")
        environment = self.inv.environment(**{faults.VARIABLE: point})
        with pytest.raises(process.ProgramFailed, match="SIGKILL"):
            process.run(argv, env=environment, cwd=self.inv.cwd, timeout=self.inv.patience)

    @property
    def files(self) -> dict[str, str]:
        """The digest of each file of the series."""
        found = (path for path in sorted(self.patches.rglob("*")) if path.is_file())
        return {str(path.relative_to(self.patches)): sha256_of(path) for path in found}


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    with BadServer() as server:
        yield Checkout(tmp_path, server)


MOVED = {**TREE, CONN: "/* new */\n" * 7 + TREE[CONN]}
FUZZY = {**MOVED, CONN: MOVED[CONN].replace("int conn_43(void);", "int conn_43(int);")}
OTHER = {**TREE, CONN: TREE[CONN].replace("int conn_40(void);", "int conn_40(int);")}


def test_a_kernel_that_moved_is_followed(checkout: Checkout) -> None:
    """Patches, digests and effects are the new ones; nothing else in the series file changes."""
    before, text = checkout.files, (checkout.patches / "series.toml").read_text()
    checkout()
    checkout.release("6.1.10", MOVED)
    said = checkout.refresh().out
    assert "director: linux_6.1.10.orig.tar.xz, version 6.1.10-1" in said
    assert f"two: {CONN} hunk 1: line 38 -> 45 (offset 7)" in said
    new = blob_id(changed(MOVED[CONN], "int conn_40(void);", "int fullnat(void);").encode())
    assert f"two: leaves {CONN} as {new[:12]}, recorded was {blob_id(TWO[CONN].encode())[:12]}" in said
    assert "proven of the refreshed series: director by content" in said
    after = checkout.files
    assert [name for name in before if before[name] != after[name]] == ["director/0002-two.patch", "series.toml"]
    assert after.keys() == before.keys()
    rows = difflib.ndiff(text.splitlines(), (checkout.patches / "series.toml").read_text().splitlines())
    assert [row for row in rows if row[0] in "+-"] == [
        f'- sha256 = "{before["director/0002-two.patch"]}"',
        f'+ sha256 = "{after["director/0002-two.patch"]}"',
        f'- "{CONN}" = "{blob_id(TWO[CONN].encode())}"',
        f'+ "{CONN}" = "{new}"',
    ]
    assert (checkout.patches / "director/0002-two.patch").read_bytes().startswith(b"Subject: [PATCH] ours\n\n")
    assert "0 at an offset, none with fuzz" in checkout().out


def test_a_newer_kernel_waits_until_its_patches_are_made_for_it(checkout: Checkout) -> None:
    """Until then, and after a dry run too, the old one is built; also a kernel that needs no other patch is taken."""
    series = checkout.patches / "series.toml"
    series.write_text('[sources.linux]\nmade-for = "6.1.9"\n\n' + series.read_text())
    checkout.release("6.1.10", TREE)
    before = checkout.files
    assert "it would be 0 patches and 1 values of" in checkout.refresh("--dry-run").out
    assert checkout.files == before
    fetched = checkout.inv("fetch", "deb", "--debian-mirror", checkout.archive.url).out
    assert "linux_6.1.9.orig.tar.xz" in fetched and "6.1.10-1 is newer" in fetched
    assert "written: 0 patches and 1 values of" in checkout.refresh().out
    assert series.read_text().startswith('[sources.linux]\nmade-for = "6.1.10"\n')
    assert "linux_6.1.10.orig.tar.xz" in checkout.refresh("--dry-run").out


def test_the_patches_of_a_tool_are_rebased_too(checkout: Checkout) -> None:
    checkout.tool("1.31", TOOL)
    checkout()
    moved = {**TOOL, "list.c": "/* new */\n" + TOOL["list.c"]}
    checkout.tool("1.32", moved)
    before = checkout.files
    said = checkout.refresh().out
    assert "ipvsadm: ipvsadm_1.32.orig.tar.xz, version 1:1.32-1" in said
    assert "0002-two.patch: list.c hunk 1: line 28 -> 29 (offset 1)" in said
    left = blob_id(patched_tool(moved)["list.c"].encode())
    assert f"ipvsadm: leaves list.c as {left[:12]}, recorded was" in said
    assert "written: 1 patches and 2 values of" in said
    after = checkout.files
    assert [name for name in before if before[name] != after[name]] == ["ipvsadm/0002-two.patch", "series.toml"]
    assert "0 at an offset, none with fuzz" in checkout().out


def test_a_dry_run_shows_the_same_and_writes_nothing(checkout: Checkout) -> None:
    checkout.release("6.1.10", MOVED)
    before = checkout.files
    said = checkout.refresh("--dry-run").out
    assert f"two: {CONN} hunk 1: line 38 -> 45 (offset 7)" in said
    assert "nothing is written, as requested; it would be 1 patches and 2 values of" in said
    assert checkout.files == before


def test_without_a_change_nothing_is_written(checkout: Checkout) -> None:
    before = (checkout.files, checkout.patches.stat().st_ino)
    said = checkout.refresh().out
    assert "every patch applies as it is and leaves what is recorded: nothing is written" in said
    assert (checkout.files, checkout.patches.stat().st_ino) == before


def test_the_document_has_what_the_text_says(checkout: Checkout) -> None:
    checkout.release("6.1.10", FUZZY)
    document: Any = checkout.refresh("--json").json
    assert sorted(document) == ["kernel", "left_out", "line", "override", "series", "written"]
    [series] = document["series"]
    assert (series["series"], series["version"], series["effect"]) == ("director", "6.1.10-1", [])
    one, two = series["patches"]
    assert (one["state"], one["moved"], one["effect"]) == ("unchanged", [], [])
    [moved] = two["moved"]
    assert moved == {
        "path": CONN,
        "number": 1,
        "line": 38,
        "new_line": 45,
        "fuzz": 1,
        "context": ["-int conn_43(void);", "+int conn_43(int);"],
    }
    assert two["sha256"] == checkout.files["director/0002-two.patch"] != two["recorded"]
    assert [item["path"] for item in two["effect"]] == [CONN] and len(two["review"]) == 1
    assert [Path(path).name for path in document["written"]] == ["series.toml", "0002-two.patch"]


def test_fuzz_is_marked_for_review_and_gone_afterwards(checkout: Checkout) -> None:
    checkout.release("6.1.10", FUZZY)
    done = checkout.refresh()
    assert f"warning: REVIEW two: {CONN} hunk 1 goes where its context differs" in done.err
    assert "fuzz 1: expected (-), and what stands there (+)\n" in done.out
    assert "      -int conn_43(void);\n" in done.out and "      +int conn_43(int);\n" in done.out
    assert "none with fuzz" in checkout().out


def test_a_hunk_that_does_not_apply_changes_nothing(checkout: Checkout) -> None:
    before = checkout.files
    checkout.release("6.1.10", OTHER)
    done = checkout.refresh(expect=ExitCode.REFUSED)
    assert "error: patch two: 1 of 1 hunks does not apply to linux_6.1.10.orig.tar.xz, after one" in done.err
    reject = checkout.inv.artifacts / "rejects" / "deb" / "two.rej"
    assert "+int fullnat(void);" in reject.read_text()
    assert "rejects/deb/two.rej" in done.err
    assert checkout.files == before
    checkout.release("6.1.11", MOVED)
    checkout.refresh()
    assert not reject.exists(), "it tells of a run that was"


def test_a_refreshed_series_that_does_not_prove_its_role_changes_nothing(checkout: Checkout) -> None:
    """Here the new kernel has an option of this name itself, and the number is no longer one."""
    before = checkout.files
    checkout.release("6.1.10", {**FUZZY, FLAG: TREE[FLAG] + "#define TCPOPT_ADDR 253\n"})
    done = checkout.refresh(expect=ExitCode.REFUSED)
    assert "TCPOPT_ADDR" in done.err and "253" in done.err
    assert checkout.files == before


@pytest.mark.parametrize(("point", "is_new"), [("refresh.before-exchange", False), ("refresh.after-exchange", True)])
def test_a_kill_leaves_all_files_as_they_were_or_all_new(checkout: Checkout, point: str, is_new: bool) -> None:
    before = checkout.files
    checkout.release("6.1.10", {**MOVED, FLAG: "/* new */\n" + TREE[FLAG]})
    checkout.killed(point)
    changed_files = [name for name, digest in checkout.files.items() if before[name] != digest]
    everything = ["director/0001-one.patch", "director/0002-two.patch", "series.toml"]
    assert changed_files == (everything if is_new else [])
    assert ("nothing is written" in checkout.refresh().out) == is_new
    assert [name for name, digest in checkout.files.items() if before[name] != digest] == everything
    checkout()
    if not is_new:
        assert [path.name for path in checkout.patches.parent.iterdir()] == ["deb"], (
            "the next one removes what was left"
        )


def test_a_patch_that_is_not_the_pinned_one_is_not_made_anew(checkout: Checkout) -> None:
    file = checkout.patches / "director/0002-two.patch"
    file.write_bytes(file.read_bytes().replace(b"fullnat", b"fullnot"))
    before = checkout.files
    checkout.release("6.1.10", MOVED)
    checkout.refresh(expect=ExitCode.REFUSED)
    assert checkout.files == before


def test_the_setting_of_the_same_name_only_asks_the_index(checkout: Checkout) -> None:
    before = checkout.files
    checkout()
    checkout.release("6.1.10", MOVED)
    assert "the series leaves another tree than recorded" in checkout(expect=ExitCode.REFUSED, FNAT_REFRESH="1").err
    assert checkout.files == before


def test_an_effect_without_a_row_is_asked_for(checkout: Checkout) -> None:
    file = checkout.patches / "series.toml"
    row = f'"{SYNPROXY}" = "{blob_id(ONE[SYNPROXY].encode())}"\n'
    file.write_text(file.read_text().replace(row, ""))
    before = checkout.files
    done = checkout.refresh(expect=ExitCode.REFUSED)
    assert f"one: the effect has no row for {SYNPROXY}" in done.err
    assert checkout.files == before


def test_upstreams_patches_are_left_alone(inv: Inv) -> None:
    done = inv("patches", "el6", "--refresh", expect=ExitCode.USAGE)
    assert "the line el6 has no patches of the project's own; director: lvs is upstream's" in done.err
    assert "would no longer be what upstream published" in done.err


@pytest.mark.parametrize("option", [("--classify", "x.patch"), ("--diff", "x.patch", "y.patch")])
def test_it_is_about_no_single_file(inv: Inv, option: tuple[str, ...]) -> None:
    done = inv("patches", "lts61", "--refresh", *option, expect=ExitCode.USAGE)
    assert "expected neither --diff nor --classify" in done.err


def test_only_a_refresh_has_a_dry_run(inv: Inv) -> None:
    done = inv("patches", "lts61", "--dry-run", expect=ExitCode.USAGE)
    assert "only --refresh changes anything" in done.err
    assert "./inv patches LINE --refresh --dry-run" in done.err


def test_an_override_does_not_change_its_bases_patches(inv: Inv, tmp_path: Path) -> None:
    file = tmp_path / "house.toml"
    file.write_text('schema = 1\nextends = "lts61"\nname = "house"\n[sources.linux]\nversion = "6.1.8-1"\n')
    done = inv("patches", "--line-file", file, "--refresh", expect=ExitCode.USAGE)
    assert "its patches are those of lts61" in done.err
