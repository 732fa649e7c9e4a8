"""Debian's stock kernel, packed by rpmbuild in each compression: what it is, under any name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.audit.identify import identify
from pipeline.audit.identity import Kind, Role
from pipeline.core import process
from pipeline.formats import rpm_header
from pipeline.inspect.contents import Depth
from tests.fixtures.debian import debian_kernel_deb

SPEC = """
Name: %{called}
Version: 6.1
Release: %{rel}
Summary: x
License: GPL
%description
x
%install
mkdir -p %{buildroot}
cp -a %{tree}/boot %{tree}/lib %{buildroot}/
%files
/boot
/lib
"""
DEFINES = ("__os_install_post", "_build_id_links", "debug_package", "__find_provides", "__find_requires")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of Debian's kernel, of its modules those of the network."""
    place = tmp_path_factory.mktemp("debian")
    process.run(["dpkg-deb", "-x", debian_kernel_deb(), place])
    (kernel,) = (place / "lib/modules").iterdir()
    for other in (kernel / "kernel").iterdir():
        if other.name != "net":
            process.run(["rm", "-r", other])
    return place


def packed(place: Path, tree: Path, payload: str, called: str = "kernel", release: str = "1") -> Path:
    spec = place / "kernel.spec"
    spec.write_text(SPEC)
    values = {"_topdir": place, "_binary_payload": payload, "called": called, "rel": release, "tree": tree}
    values |= {"_binary_filedigest_algorithm": 8, **dict.fromkeys(DEFINES, "%{nil}"), "_build_id_links": "none"}
    defined = [word for name, value in values.items() for word in ("--define", f"{name} {value}")]
    process.run(["rpmbuild", "-bb", "--quiet", *defined, spec], timeout=300)
    (package,) = (place / "RPMS").rglob("*.rpm")
    return package


@pytest.mark.parametrize(("payload", "compressor"), [("w1.gzdio", "gzip"), ("w0.xzdio", "xz"), ("w3.zstdio", "zstd")])
def test_it_is_a_stock_kernel_whatever_compresses_it(tmp_path: Path, tree: Path, payload: str, compressor: str) -> None:
    package = packed(tmp_path, tree, payload)
    assert rpm_header.read(package).header.text(rpm_header.Tag.PAYLOAD_COMPRESSOR) == compressor
    (found,) = identify([package], Role.STOCK, Depth.MODULES).packages
    assert (found.kind, found.role, found.options, found.tab_bits) == (Kind.KERNEL, Role.STOCK, (), 12)
    assert (found.problems, found.digests[-1]) == ((), "payload sha256")


def test_its_name_may_claim_fullnat_and_is_not_believed(tmp_path: Path, tree: Path) -> None:
    package = packed(tmp_path, tree, "w1.gzdio", "kernel-lvs-director", "1.fnat")
    (found,) = identify([package], None, Depth.MODULES).packages
    assert found.role is Role.STOCK
    assert "its name claims a director" in found.problems[0].what
