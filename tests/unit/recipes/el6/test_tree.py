"""What holds the tree and the configuration in the builder against what they must be: tree.pl and asked.awk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.process import Result, clean_environment, run
from pipeline.core.resources import specs_dir
from pipeline.formats import kconfig

FILES = {
    "Makefile": "VERSION = 2\n",
    "net/core/one.c": "int one;\n",
    "net/core/same.c": "int one;\n",
    "scripts/run.pl": "#!/usr/bin/perl\n",
    "arch/a/generic/system.dts": "/* toy */\n",
    "a name with blanks": "\n",
    "empty": "",
}
LINK, TARGET = "arch/a/boot/dts/system.dts", "../../generic/system.dts"


def blob(text: str) -> str:
    """What git calls a content."""
    data = text.encode()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class Tree:
    """A tree that is as its listing says, until a test changes it."""

    def __init__(self, place: Path) -> None:
        self.top, self.listing = place / "tree", place / "listing"
        for path, text in FILES.items():
            self.write(path, text)
        (self.top / "scripts/run.pl").chmod(0o755)
        (self.top / LINK).parent.mkdir(parents=True)
        (self.top / LINK).symlink_to(TARGET)
        rows = [
            f"{'100755' if path == 'scripts/run.pl' else '100644'} {blob(text)} {path}" for path, text in FILES.items()
        ]
        self.listing.write_text("".join(f"{row}\n" for row in [*rows, f"120000 {blob(TARGET)} {LINK}"]))

    def write(self, path: str, text: str) -> None:
        file = self.top / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o644)

    def held(self, mode: str, *own: str) -> Result:
        """The verifier's answer."""
        argv: list[str | Path] = ["perl", specs_dir() / "redhat-srpm" / "tree.pl", mode, self.listing, self.top, *own]
        return run(argv, env=clean_environment(), accept=range(256))

    def wrong(self, mode: str, *own: str) -> list[str]:
        """What it says is wrong."""
        ended = self.held(mode, *own)
        rows = [row.removeprefix("error: tree: ") for row in ended.text.splitlines() if row.startswith("error: ")]
        assert (ended.status != 0) is bool(rows), ended.text + ended.error_text
        assert ended.error_text == "", "no warning either"
        return rows


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize("mode", ["exact", "content"])
def test_a_tree_as_listed_is_fine_and_said_to_be(tree: Tree, mode: str) -> None:
    assert tree.wrong(mode) == []
    assert f"{len(FILES) + 1} files are as the sources and the series make them" in tree.held(mode).text


CHANGES: dict[str, tuple[Callable[[Tree], object], str]] = {
    "changed": (lambda tree: tree.write("net/core/one.c", "int two;\n"), "changed net/core/one.c"),
    "emptied": (lambda tree: tree.write("Makefile", ""), "changed Makefile"),
    "missing": (lambda tree: (tree.top / "a name with blanks").unlink(), "missing a name with blanks"),
    "link gone": (lambda tree: (tree.top / LINK).unlink(), f"missing {LINK}"),
    "file for a link": (lambda tree: replaced(tree, LINK, lambda file: file.write_text("other\n")), f"changed {LINK}"),
    "other content of the tree for a link": (
        lambda tree: replaced(tree, LINK, lambda file: file.write_text(FILES["Makefile"])),
        f"changed {LINK}",
    ),
    "link elsewhere": (
        lambda tree: replaced(tree, LINK, lambda file: file.symlink_to("../../../../Makefile")),
        f"changed {LINK}",
    ),
    "link for a file": (
        lambda tree: replaced(tree, "net/core/one.c", lambda file: file.symlink_to("same.c")),
        "changed net/core/one.c",
    ),
    "broken link": (
        lambda tree: replaced(tree, "Makefile", lambda file: file.symlink_to("nowhere")),
        "changed Makefile",
    ),
}


def replaced(tree: Tree, path: str, make: Callable[[Path], object]) -> None:
    (tree.top / path).unlink()
    make(tree.top / path)


@pytest.mark.parametrize("mode", ["exact", "content"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_tree_is_told_by_path(tree: Tree, mode: str, change: str) -> None:
    make, told = CHANGES[change]
    make(tree)
    assert tree.wrong(mode) == [told]


def test_a_link_may_be_the_file_it_leads_to_as_a_copy_that_follows_links_leaves_it(tree: Tree) -> None:
    replaced(tree, LINK, lambda file: os.link(tree.top / "arch/a/generic/system.dts", file))
    assert tree.wrong("exact") == [] == tree.wrong("content")


def test_modes_and_files_of_the_builds_own_count_only_before_it_begins(tree: Tree) -> None:
    (tree.top / "scripts/run.pl").chmod(0o644)
    (tree.top / "net/core/one.c").chmod(0o755)
    tree.write("net/core/one.o", "")
    (tree.top / "net/core/link.c").symlink_to("one.c")
    assert tree.wrong("content") == []
    assert sorted(tree.wrong("exact")) == [
        "extra net/core/link.c",
        "extra net/core/one.o",
        "mode net/core/one.c: 100755, wanted 100644",
        "mode scripts/run.pl: 100644, wanted 100755",
    ]


def test_files_that_the_spec_brings_may_lie_at_the_top_alone(tree: Tree) -> None:
    for path in (
        "kernel-2.6.32-x86_64.config",
        "merge.pl",
        "temp-generic",
        "net/merge.pl",
        "temp-dir/x",
        "xmerge.pl",
        "mergeXpl",
    ):
        tree.write(path, "")
    own = ("kernel-*.config", "temp-*", "merge.pl")
    assert sorted(tree.wrong("exact", *own)) == [
        "extra mergeXpl",
        "extra net/merge.pl",
        "extra temp-dir/x",
        "extra xmerge.pl",
    ]


def test_of_very_many_the_first_are_told_and_the_rest_counted(tree: Tree) -> None:
    for number in range(50):
        tree.write(f"extra/{number}", "")
    rows = tree.wrong("exact")
    assert len(rows) == 41 and rows[-1] == "and 10 more"


@pytest.mark.parametrize("row", ["", "100644 short path", "100644  " + "0" * 40 + " path"])
def test_a_listing_that_is_none_is_an_error_not_an_empty_one(tree: Tree, row: str) -> None:
    tree.listing.write_text(f"{row}\n")
    ended = tree.held("content")
    assert ended.status != 0 and "error: tree: " in ended.error_text


def test_a_listing_or_a_tree_that_is_not_there_is_an_error(tree: Tree) -> None:
    tree.listing.rename(tree.listing.with_name("moved"))
    assert "error: tree: " in tree.held("exact").error_text
    tree.listing.with_name("moved").rename(tree.listing)
    tree.top.rename(tree.top.with_name("moved"))
    assert "error: tree: " in tree.held("exact").error_text


# --- Configurations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finished", "told"),
    [
        ("CONFIG_IP_VS=m\nCONFIG_IP_VS_TAB_BITS=22\n# CONFIG_IP_VS_DEBUG is not set\n", []),
        ("CONFIG_IP_VS_TAB_BITS=22\nCONFIG_IP_VS=m\n", []),
        ("CONFIG_IP_VS=m\nCONFIG_IP_VS_TAB_BITS=12\n", ["CONFIG_IP_VS_TAB_BITS=22 became 12"]),
        ("CONFIG_IP_VS=m\n", ["CONFIG_IP_VS_TAB_BITS=22 was dropped"]),
        (
            "CONFIG_IP_VS=y\n# CONFIG_IP_VS_TAB_BITS is not set\n",
            ["CONFIG_IP_VS=m became y", "TAB_BITS=22 was dropped"],
        ),
        ("CONFIG_IP_VS=m\nCONFIG_IP_VS_TAB_BITS=22\nCONFIG_IP_VS_DEBUG=y\n", ["CONFIG_IP_VS_DEBUG=n became y"]),
        ("", ["CONFIG_IP_VS=m was dropped", "CONFIG_IP_VS_TAB_BITS=22 was dropped"]),
    ],
    ids=["as asked", "off by absence", "another value", "dropped", "built in", "on", "empty"],
)
def test_the_builder_tells_of_a_configuration_what_python_tells_of_it(
    tmp_path: Path, finished: str, told: list[str]
) -> None:
    wanted = {"CONFIG_IP_VS": "m", "CONFIG_IP_VS_TAB_BITS": "22", "CONFIG_IP_VS_DEBUG": "n"}
    asked = kconfig.options(wanted, "a test")
    (tmp_path / "finished").write_text(finished)
    (tmp_path / "asked").write_text(kconfig.text(asked))
    script = specs_dir() / "common" / "asked.awk"
    ended = run(["awk", "-f", script, tmp_path / "finished", tmp_path / "asked"], accept=(0, 1))
    differences = kconfig.from_log(ended.text.splitlines(), asked)
    assert ended.status == bool(told)
    assert [str(found).partition(": ")[2] for found in differences] == [
        row if row.startswith("CONFIG_") else f"CONFIG_IP_VS_{row}" for row in told
    ]
    assert differences == kconfig.compare(asked, finished)
