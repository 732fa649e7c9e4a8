"""The package lvs-toa, built by rpmbuild itself, and the proof of its content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.line_model import ToaReader
from pipeline.core import process
from pipeline.errors import Refused, UsageError
from pipeline.packaging import rpmbuild
from pipeline.recipes import toa_reader
from pipeline.recipes.toa_reader import Parameters
from tests.fixtures import toa
from tests.fixtures.targets import LTS61

EPOCH = 1_760_000_000
PLACE = Path("lvs-toa.rpm")


def parameters(option: int = 200) -> Parameters:
    return Parameters(
        LTS61, "lvs-toa", ToaReader.model_validate({"kind": "toa-reader", "option-number": option}), EPOCH
    )


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the builder image has installed."""
    return toa.libraries_below(tmp_path_factory.mktemp("libraries"))


def same(text: str) -> str:
    return text


def build(
    top: Path, libraries: Path, option: int = 200, *, file: str = toa_reader.SPEC, change: Callable[[str], str] = same
) -> Path:
    rpmbuild.make_tree(top)
    [changed] = [
        path for path in toa_reader.prepare(top / "SOURCES", top / "SPECS", parameters(option)) if path.name == file
    ]
    changed.write_text(change(changed.read_text()))
    macros = rpmbuild.Macros(topdir=str(top), ccache=False, payload="w1.gzdio", dist=LTS61.build.dist)
    fixed = {**rpmbuild.environment(EPOCH, ccache=""), "HOME": str(top / "tmp")}
    argv = rpmbuild.build_argv(toa_reader.SPEC, macros)
    process.run(argv, env={**toa.environment(libraries), **fixed}, timeout=300)
    return top / "RPMS"


def test_the_package_is_built_and_proven_and_has_the_same_bytes_anew(tmp_path: Path, libraries: Path) -> None:
    built = [build(tmp_path / "top", libraries)]
    kept = {path.name: path.read_bytes() for path in built[0].rglob("*.rpm")}
    (tmp_path / "top").rename(tmp_path / "first")
    found = toa_reader.check(tmp_path / "first" / "RPMS", parameters())
    assert found.package.nevra == "lvs-toa-1.0-fnat.1.lts61.x86_64"
    assert (found.option_number, found.libraries) == (200, ["libc.so.6"])
    assert tuple(map(int, found.glibc.split("."))) <= (2, 34)
    again = {path.name: path.read_bytes() for path in build(tmp_path / "top", libraries).rglob("*.rpm")}
    assert kept == again and len(kept) == 1


def test_another_number_is_in_program_and_configuration_and_no_other_is_taken_for_it(
    tmp_path: Path, libraries: Path
) -> None:
    rpms = build(tmp_path, libraries, 254)
    assert toa_reader.check(rpms, parameters(254)).option_number == 254
    with pytest.raises(Refused, match=r"lvs-toa in .*: wrong option number; expected 200, got TCP option 254"):
        toa_reader.check(rpms, parameters(200))


def test_a_configuration_with_another_number_than_the_program_is_refused(tmp_path: Path, libraries: Path) -> None:
    rpms = build(tmp_path, libraries, change=lambda spec: spec.replace("/option = 200/'", "/option = 252/'"))
    with pytest.raises(Refused, match=r"/etc/lvs-toa\.conf in .*: wrong option number; expected 200, got 252"):
        toa_reader.check(rpms, parameters())


def test_a_number_of_tcps_own_ends_the_build(tmp_path: Path, libraries: Path) -> None:
    with pytest.raises(process.ProgramFailed, match="30 is TCP's own, MPTCP"):
        build(tmp_path, libraries, 30)


def test_a_program_without_the_part_for_dual_stack_sockets_is_refused(tmp_path: Path, libraries: Path) -> None:
    def dropped(text: str) -> str:
        assert text.count('SEC("cgroup/getpeername6")') == 1
        return text.replace('SEC("cgroup/getpeername6")', 'SEC("cgroup/getsockname6")')

    rpms = build(tmp_path, libraries, file="toa.bpf.c", change=dropped)
    with pytest.raises(Refused, match="BPF programs missing; expected the sections cgroup/getpeername6"):
        toa_reader.check(rpms, parameters())


def test_a_program_without_bpf_programs_is_refused() -> None:
    with pytest.raises(Refused, match="0 BPF objects; expected one"):
        toa_reader.check_programs(Path("/bin/true").read_bytes(), 200, PLACE)


def test_a_dynamic_library_more_is_refused(tmp_path: Path, libraries: Path) -> None:
    def dynamic(text: str) -> str:
        assert text.count(" -lz -Wl,-Bdynamic") == 1
        return text.replace(" -lz -Wl,-Bdynamic", " -Wl,-Bdynamic -lz")

    rpms = build(tmp_path, libraries, file="Makefile", change=dynamic)
    with pytest.raises(Refused, match=r"requires libz\.so\.1"):
        toa_reader.check(rpms, parameters())


def test_a_missing_library_of_the_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(process.ProgramFailed, match=r"the builder image lacks libbpf\.a"):
        build(tmp_path / "top", tmp_path)


def test_what_cannot_stand_in_a_spec_file_is_refused() -> None:
    with pytest.raises(UsageError):
        replace(parameters(), name="a b")
