"""The spec files of the line el6's tools as rpm reads them, for both builder images, and what they are made from."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import BuildFailed, UsageError
from pipeline.packaging import rpmbuild
from pipeline.recipes import lvs_tools
from pipeline.recipes.el6 import tools
from pipeline.recipes.el6.tools import LIBRARIES, SUMMARY, Builder, Library
from pipeline.recipes.lvs_tools import Tool
from tests.fixtures.targets import EL6
from tests.unit.recipes.test_tools_specs import EPOCH, nevras, newer, rpmspec

# As 1.2.2 prints it.
CONFIGURED = """\
checking for kernel version... 2.6.32
checking net/ip_vs.h presence... yes

Keepalived configuration
------------------------
Keepalived version       : 1.2.2
Compiler                 : ccache gcc -specs=/usr/lib/x86_64-linux-musl/musl-gcc.specs
Compiler flags           : -O2 -g0
Extra Lib                : -lpopt -lssl -lcrypto\x20
Use IPVS Framework       : Yes
IPVS sync daemon support : Yes
IPVS use libnl           : No
Use VRRP Framework       : Yes
Use Debug flags          : No
+ wanted 'Use IPVS Framework' Yes
"""


def tool(name: Tool, image: Builder = Builder.DEBIAN12, **more: Any) -> tools.Parameters:
    names = LIBRARIES[name] if image is Builder.DEBIAN12 else ()
    libraries = {library: Library(f"{library}_1.orig.tar.gz", f"{library}-1") for library in names}
    return tools.Parameters(
        **{"target": EL6, "tool": name, "image": image, "libraries": libraries, "epoch": EPOCH, **more}
    )


@pytest.mark.parametrize("image", Builder)
@pytest.mark.parametrize("guard", [0, 1])
@pytest.mark.parametrize("name", Tool)
def test_a_tools_spec_gives_the_package_it_promises(tmp_path: Path, name: Tool, guard: int, image: Builder) -> None:
    parameters = tool(name, image, guard=guard, number=3, tag=".override_house")
    rpmbuild.make_tree(tmp_path)
    texts = tools.rendered(parameters)
    written = lvs_tools.write(texts, parameters.spec, tmp_path / "SOURCES", tmp_path / "SPECS")
    assert nevras(tmp_path, parameters.spec) == {parameters.nevra}
    expanded = rpmspec(tmp_path, parameters.spec, "-P")
    assert "%config(noreplace)" in expanded and "{{" not in expanded and "None" not in expanded
    declared = set(re.findall(r"^Source\d+: (.*)$", expanded, re.MULTILINE))
    made = {"lvs-tools.tar.gz", *(library.file for library in parameters.libraries.values())}
    made |= {tools.HEADERS} if name is Tool.KEEPALIVED else set()
    assert declared == made | {path.name for path in written} - {parameters.spec}
    prepared = expanded.partition("%prep\n")[2].partition("%build\n")[0]
    assert all(f"/SOURCES/{file}" in prepared for file in made), "each is unpacked"


@pytest.mark.parametrize("name", Tool)
def test_the_packages_have_the_guides_names(name: Tool) -> None:
    expected = {
        Tool.IPVSADM: "ipvsadm-1:1.2.1-fnat.0.el6.x86_64",
        Tool.KEEPALIVED: "keepalived-1:1.2.2-fnat.0.el6.x86_64",
    }
    assert tool(name).nevra == expected[name]


@pytest.mark.parametrize(("name", "theirs"), [(Tool.IPVSADM, "1.26"), (Tool.KEEPALIVED, "1.2.13")])
def test_only_the_epoch_stands_between_a_tool_and_the_distributions(name: Tool, theirs: str) -> None:
    parameters = tool(name)
    assert newer(theirs, parameters.version), "so yum update would take FULLNAT away"
    assert parameters.guard > 0


@pytest.mark.parametrize("name", Tool)
def test_the_image_centos6_is_asked_for_nothing_that_it_has_not(name: Tool) -> None:
    """rpm 4.8, gcc 4.4 and binutils 2.20."""
    spec = tools.rendered(tool(name, Builder.CENTOS6))[f"{name}.spec"]
    newer_words = (
        "%autosetup",
        "%license",
        "%{lua",
        "-ffile-prefix-map",
        "-fstack-protector-strong",
        "musl",
        "Recommends:",
    )
    assert [word for word in newer_words if word in spec] == []
    assert "-static" not in spec and "-idirafter" not in spec and "Configure" not in spec
    assert all(f"{tag}: " in spec for tag in ("Name", "Version", "Release", "Summary", "License", "Group"))
    assert "popt-devel" in spec


@pytest.mark.parametrize("name", Tool)
def test_the_image_debian12_makes_static_programs_without_its_own_c_library(name: Tool) -> None:
    spec = tools.rendered(tool(name))[f"{name}.spec"]
    assert "-static -L$top/static/lib" in spec and "musl-gcc.specs" in spec
    for library in LIBRARIES[name]:
        assert f"    cd {library}-1\n" in spec
    assert "/usr/include/x86_64-linux-gnu " not in spec, "glibc's headers would be found where musl has none"


@pytest.mark.parametrize("image", Builder)
def test_no_image_decides_whether_libnl_is_used(image: Builder) -> None:
    texts = {name: tools.rendered(tool(name, image))[f"{name}.spec"] for name in Tool}
    assert "-DLIBIPVS_DONTUSE_NL" in texts[Tool.IPVSADM]
    assert "ac_cv_lib_nl_nl_handle_alloc=no " in texts[Tool.KEEPALIVED]


def test_a_health_check_never_waits_for_entropy_and_speaks_with_servers_of_its_time() -> None:
    spec = tools.rendered(tool(Tool.KEEPALIVED))["keepalived.spec"]
    assert "--with-rand-seed=devrandom " in spec and "-DOPENSSL_TLS_SECURITY_LEVEL=0 " in spec
    words = re.findall(r"^ +(no-.*?)(?: \\)?$", spec, re.MULTILINE)
    assert " ".join(words).split() == list(tools.OPENSSL_OPTIONS)


@pytest.mark.parametrize("image", Builder)
def test_every_assertion_on_configure_is_in_the_spec(image: Builder) -> None:
    text = tools.rendered(tool(Tool.KEEPALIVED, image))["keepalived.spec"]
    assert all(f"wanted '{label}' '{word}'\n" in text for label, word in SUMMARY)
    assert '--with-kernel-dir="$top/kernel" \\\n    2>&1 | tee' in text
    assert "uname" not in text, "the builder's own kernel is nobody's"


def test_a_build_whose_configure_found_everything_is_not_blamed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for text in (CONFIGURED, "", "nothing of configure\n"):
        log.write_text(text)
        tools.explain(log, tool(Tool.KEEPALIVED))


def test_a_configure_without_ipvs_is_told_though_it_ended_with_success(tmp_path: Path) -> None:
    log = tmp_path / "log"
    # As it prints it then: the row about libnl is not there at all.
    text = CONFIGURED.replace("IPVS use libnl           : No\n", "")
    log.write_text(re.sub(r"(IPVS Framework|sync daemon support) +: Yes", r"\1 : No", text))
    with pytest.raises(BuildFailed) as caught:
        tools.explain(log, tool(Tool.KEEPALIVED))
    for row in ("Use IPVS Framework: No", "IPVS sync daemon support: No", "IPVS use libnl: missing"):
        assert row in caught.value.what
    assert caught.value.where == str(log)
    tools.explain(log, tool(Tool.IPVSADM))


@pytest.mark.parametrize(
    "wrong",
    [
        {"tag": "-x"},
        {"number": -1},
        {"guard": -1},
        {"libraries": {}},
        {"libraries": {"openssl": Library("a", "b"), "popt": Library("c", "d")}},
        {"libraries": {"popt": Library("$(id).tar", "d"), "openssl": Library("a", "b")}},
        {"libraries": {"popt": Library("c", "d/e"), "openssl": Library("a", "b")}},
        {"image": Builder.CENTOS6},
    ],
)
def test_what_cannot_be_built_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        replace(tool(Tool.KEEPALIVED), **wrong)


def test_the_key_of_a_step_sees_image_libraries_and_sources() -> None:
    one, other = tool(Tool.IPVSADM), tool(Tool.IPVSADM, Builder.CENTOS6)
    assert one.to_json() != other.to_json() and one.to_json()["image"] == "debian12"
    assert tools.rendered(one) != tools.rendered(other)
