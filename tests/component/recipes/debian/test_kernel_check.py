"""Built packages of lts61 are proven by content: each thing that could be wrong in them has its own refusal.

The packages are made by rpmbuild out of a few small files that look like a kernel's.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pipeline.config.line_model import RoleName
from pipeline.core.decoder import encode
from pipeline.core.process import clean_environment, run
from pipeline.errors import BuildFailed, PipelineError, Refused
from pipeline.formats import archive, kconfig
from pipeline.packaging import rpmbuild
from pipeline.recipes.debian import kernel as recipe
from tests.fixtures.guestfiles import bootimage
from tests.fixtures.targets import LTS61

STOCK = recipe.Parameters(
    target=LTS61,
    role=RoleName.STOCK,
    version="6.1.187",
    tarball="linux.tar.xz",
    tree="linux-6.1.187",
    epoch=1_760_000_000,
)
REALSERVER = replace(STOCK, role=RoleName.REALSERVER, buildid=".toa", patches=("toa.patch",))
BUILDLINK = "BUILDLINK"  # in the spec below: where kernel-devel's link leads

SPEC = """\
%global __os_install_post %{nil}
Name: kernel
Version: VERSION
Release: RELEASE
Summary: Made for a test
License: none
Provides: installonlypkg(kernel)
Provides: kernel-uname-r = UNAME
AutoReqProv: no
%description
%package devel
Summary: Made for a test
AutoReqProv: no
%description devel
%package headers
Summary: Made for a test
Provides: glibc-kernheaders = 3.0-46
%description headers
%install
cp -a %{_topdir}/files/. %{buildroot}
ln -s BUILDLINK %{buildroot}/lib/modules/UNAME/build
ln -s build %{buildroot}/lib/modules/UNAME/source
%files
%ghost /boot/initramfs-UNAME.img
/boot/vmlinuz*
/boot/config*
/boot/System.map*
%dir /lib/modules/UNAME
/lib/modules/UNAME/kernel
/lib/modules/UNAME/vmlinuz
/lib/modules/UNAME/modules.*
%files devel
/usr/src/kernels
/lib/modules/UNAME/build
/lib/modules/UNAME/source
%files headers
/usr/include
"""


def module(release: str) -> bytes:
    return b"\x7fELF" + bytes(60) + b"license=GPL\0vermagic=" + release.encode() + b" SMP mod_unload \0"


@dataclass
class Kernel:
    """The files of packages that pass, for a test to spoil one of."""

    parameters: recipe.Parameters
    topdir: Path
    files: dict[str, bytes] = field(default_factory=dict)
    spec: str = SPEC

    def __post_init__(self) -> None:
        release = self.parameters.uname
        modules, devel = f"lib/modules/{release}", f"usr/src/kernels/{release}"
        bootable = bootimage(f"{release} (lvs-fullnat@reproducible) #1 SMP")
        self.files = {
            f"boot/vmlinuz-{release}": bootable,
            f"boot/config-{release}": kconfig.text(recipe.requested(self.parameters)).encode() + b"CONFIG_MORE=y\n",
            f"boot/System.map-{release}": b"0 T _text\n",
            f"boot/initramfs-{release}.img": b"",
            f"{modules}/vmlinuz": bootable,
            f"{modules}/modules.dep": b"kernel/net/netfilter/ipvs/ip_vs.ko: kernel/lib/libcrc32c.ko\n",
            f"{modules}/kernel/net/netfilter/ipvs/ip_vs.ko": module(release),
            f"{modules}/kernel/net/netfilter/ipvs/ip_vs_rr.ko": module(release),
            **{f"{devel}/{name}": b"-" for name in recipe._DEVEL},
            "usr/include/linux/version.h": b"-",
            "usr/include/linux/ip_vs.h": b"-",
        }
        if self.parameters.role is RoleName.REALSERVER:
            self.files[f"{modules}/kernel/net/toa/toa.ko"] = module(release)

    def path(self, end: str) -> str:
        """The one file whose path ends so."""
        (found,) = (path for path in self.files if path.endswith(end))
        return found

    def build(self) -> Path:
        """Has rpmbuild pack the files; the directory of the packages."""
        rpmbuild.make_tree(self.topdir)
        for path, content in self.files.items():
            place = self.topdir / "files" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        given = self.parameters
        words = {"VERSION": given.version, "RELEASE": given.release, BUILDLINK: f"/usr/src/kernels/{given.uname}"}
        text = self.spec
        for word, value in {**words, "UNAME": given.uname}.items():
            text = text.replace(word, value)
        (self.topdir / "SPECS" / "toy.spec").write_text(text)
        macros = rpmbuild.Macros(topdir=str(self.topdir), payload="w1.gzdio")
        environment = {**clean_environment(), **rpmbuild.environment(given.epoch, ccache="")}
        run(rpmbuild.build_argv("toy.spec", macros), env={**environment, "HOME": str(self.topdir)})
        return self.topdir / "RPMS"


@pytest.fixture
def stock(tmp_path: Path) -> Kernel:
    return Kernel(STOCK, tmp_path)


def test_packages_that_are_what_they_must_be_give_the_evidence(stock: Kernel) -> None:
    evidence = encode(recipe.check(stock.build(), STOCK))
    assert json.loads(json.dumps(evidence)) == evidence
    assert list(evidence["packages"]) == list(recipe.PACKAGES)
    assert evidence["packages"]["kernel"]["nevra"] == "kernel-6.1.187-1.lts61.x86_64"
    assert evidence["packages"]["kernel"]["payload"] == "gzip"
    assert evidence["banner"] == "6.1.187-1.lts61.x86_64 (lvs-fullnat@reproducible) #1 SMP"
    assert evidence["role"]["toa"] == {"option": "n", "modules": []}
    assert evidence["role"]["ipvs"] == ["ip_vs", "ip_vs_rr"]
    assert evidence["config"]["requested"] == len(recipe.requested(STOCK))


def test_a_real_servers_packages_have_the_module_of_its_role(tmp_path: Path) -> None:
    evidence = encode(recipe.check(Kernel(REALSERVER, tmp_path).build(), REALSERVER))
    assert evidence["role"]["toa"] == {
        "option": "m",
        "modules": ["/lib/modules/6.1.187-1.toa.lts61.x86_64/kernel/net/toa/toa.ko"],
    }


def test_a_kernel_that_carries_toa_without_the_role_is_refused(stock: Kernel) -> None:
    stock.files[f"lib/modules/{STOCK.uname}/kernel/net/toa/toa.ko"] = module(STOCK.uname)
    with pytest.raises(Refused, match=r"has /lib/modules/.*/toa\.ko"):
        recipe.check(stock.build(), STOCK)


def test_a_real_servers_kernel_without_toa_is_refused(tmp_path: Path) -> None:
    kernel = Kernel(REALSERVER, tmp_path)
    del kernel.files[kernel.path("toa.ko")]
    with pytest.raises(Refused, match=r"lacks toa\.ko"):
        recipe.check(kernel.build(), REALSERVER)


def test_the_packages_of_one_role_are_not_taken_for_anothers(stock: Kernel) -> None:
    with pytest.raises(Refused) as caught:
        recipe.check(stock.build(), REALSERVER)
    assert "missing: kernel-6.1.187-1.toa.lts61.x86_64" in caught.value.what
    assert "unexpected: kernel-6.1.187-1.lts61.x86_64" in caught.value.what


def test_a_package_that_is_missing_or_there_twice_is_refused(stock: Kernel) -> None:
    rpms = stock.build()
    (headers,) = rpms.rglob("kernel-headers-*.rpm")
    twice = headers.with_name("again.rpm")
    twice.write_bytes(headers.read_bytes())
    with pytest.raises(Refused, match="packages of the build: not as planned; expected one kernel-headers"):
        recipe.check(rpms, STOCK)
    twice.unlink()
    headers.unlink()
    with pytest.raises(Refused) as caught:
        recipe.check(rpms, STOCK)
    assert "missing: kernel-headers-6.1.187-1.lts61.x86_64" in caught.value.what


def test_what_is_no_package_is_refused(stock: Kernel) -> None:
    rpms = stock.build()
    (headers,) = rpms.rglob("kernel-headers-*.rpm")
    headers.write_bytes(b"not a package")
    with pytest.raises(Refused, match="not an RPM package"):
        recipe.check(rpms, STOCK)


def test_a_damaged_payload_is_refused(stock: Kernel) -> None:
    rpms = stock.build()
    (kernel,) = rpms.rglob("kernel-6*.rpm")
    kernel.write_bytes(kernel.read_bytes()[:-400])
    with pytest.raises(Refused):
        recipe.check(rpms, STOCK)


def test_a_symbol_that_was_dropped_is_told_with_the_line_that_asks_for_it(stock: Kernel) -> None:
    config = stock.path(f"config-{STOCK.uname}")
    stock.files[config] = stock.files[config].replace(b"CONFIG_IP_VS_WLC=m\n", b"")
    with pytest.raises(BuildFailed, match=r"base\.config:\d+: CONFIG_IP_VS_WLC=m was dropped"):
        recipe.check(stock.build(), STOCK)


def spoil_image(kernel: Kernel, content: bytes) -> None:
    for path in (kernel.path(f"vmlinuz-{STOCK.uname}"), kernel.path("/vmlinuz")):
        kernel.files[path] = content


def spoil(end: str, content: bytes) -> Callable[[Kernel], None]:
    return lambda kernel: kernel.files.update({kernel.path(end): content})


SPOILT: dict[str, tuple[Callable[[Kernel], None], str]] = {
    "no boot flag": (lambda k: spoil_image(k, bootimage(STOCK.uname, flag=b"\0\0")), "not a boot image"),
    "no header": (lambda k: spoil_image(k, bootimage(STOCK.uname, magic=b"SrdH")), "not a boot image"),
    "an empty image": (lambda k: spoil_image(k, b""), "not a boot image"),
    "another release": (lambda k: spoil_image(k, bootimage("6.1.187-1.lts61.x86_640 x")), "another kernel"),
    "two images": (
        spoil(f"boot/vmlinuz-{STOCK.uname}", bootimage(STOCK.uname + " x")),
        "two kernel images that differ",
    ),
    "another kernel's module": (spoil("ip_vs.ko", module("6.1.186-1.lts61.x86_64")), "not a module of this kernel"),
    "a text as module": (spoil("ip_vs.ko", module(STOCK.uname)[4:]), "not a module of this kernel"),
    "an empty index": (spoil("modules.dep", b"\n"), "no usable index"),
    "no ip_vs": (lambda k: k.files.pop(k.path("/ip_vs.ko")), "files missing; expected /lib/modules/.*/ip_vs.ko"),  # type: ignore[dict-item]
    "no System.map": (
        lambda k: setattr(k, "spec", k.spec.replace("/boot/System.map*", "%exclude /boot/System.map*")),
        "files missing; expected /boot/System.map",
    ),
    "no symbol versions": (
        lambda k: k.files.pop(k.path("Module.symvers")),
        "files missing; expected .*/Module.symvers",
    ),  # type: ignore[dict-item]
    "a link elsewhere": (lambda k: setattr(k, "spec", k.spec.replace(BUILDLINK, "/build/BUILD")), "leads to /build"),
    "no headers": (lambda k: k.files.pop(k.path("ip_vs.h")), "files missing; expected /usr/include/linux/ip_vs.h"),  # type: ignore[dict-item]
    "not kept by installers": (
        lambda k: setattr(k, "spec", k.spec.replace("Provides: installonlypkg(kernel)\n", "")),
        r"does not provide installonlypkg",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_whatever_is_wrong_in_a_package_is_refused_and_said(stock: Kernel, name: str) -> None:
    change, told = SPOILT[name]
    change(stock)
    with pytest.raises(PipelineError, match=told) as caught:
        recipe.check(stock.build(), STOCK)
    assert isinstance(caught.value, Refused)


def tarball(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w:xz") as archived:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archived.addfile(member)
    return path


@pytest.mark.parametrize("names", [("linux-6.1.187/", "linux-6.1.187/Makefile"), ("./linux-6.1.187/Makefile",)])
def test_the_directory_of_a_source_archive_is_read_from_its_first_member(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    assert archive.beginning(tarball(tmp_path / "linux.tar.xz", *names))[0] == "linux-6.1.187"


@pytest.mark.parametrize("names", [(), ("Makefile", "linux-6.1.187/Makefile"), ("../linux/",)])
def test_a_source_archive_without_a_directory_of_its_own_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(Refused):
        archive.beginning(tarball(tmp_path / "linux.tar.xz", *names))
