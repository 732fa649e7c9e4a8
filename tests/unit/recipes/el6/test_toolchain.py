"""The wrapper that lets a compiler of 2022 build a kernel of 2012: each program of it, run by dash as on the image."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.line_model import RoleName
from pipeline.core.process import Result, clean_environment, run
from pipeline.core.resources import specs_dir
from pipeline.errors import HostLacks
from pipeline.recipes.el6 import kernel
from tests.fixtures.targets import EL6

TOOLCHAIN = specs_dir() / "redhat-srpm" / "toolchain"
SCRIPTS = sorted(path for path in TOOLCHAIN.rglob("*") if path.is_file() and path.read_bytes()[:9] == b"#!/bin/sh")
DEBIAN = kernel.Parameters(EL6, RoleName.STOCK, "2.6.32", "220.23.1.el6", "debian12", "linux", 0)
KERNEL = "-D__KERNEL__"
FIRST = ["-fno-pie", "-fcf-protection=none"]  # what the tree may say otherwise
PC32, PLT32 = "R_X86_64_PC32", "R_X86_64_PLT32"
CALLS = "extern int elsewhere(int);\nint here(int key)\n{\n\treturn elsewhere(key) + 1;\n}\n"


def called(name: str, words: Sequence[str | Path], *, stdin: bytes = b"", any_status: bool = False) -> Result:
    """One of the scripts, as the image's shell runs it."""
    accept = range(256) if any_status else (0,)
    return run(["dash", TOOLCHAIN / name, *words], stdin=stdin, env=clean_environment(), accept=accept)


def test_there_are_scripts_for_every_program_and_for_rpm() -> None:
    assert {path.name for path in SCRIPTS} == {"gcc", "ld", "perl", "find-provides", "find-requires"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_plain_shell_and_may_be_executed(script: Path) -> None:
    for shell in ("dash", "sh"):
        run([shell, "-n", script])
    assert "[[" not in script.read_text() and "local " not in script.read_text()


# --- gcc -----------------------------------------------------------------------------------------------


@pytest.fixture
def show(tmp_path: Path) -> Path:
    """In the compiler cache's place: a program that only shows what it is called with."""
    program = tmp_path / "show"
    program.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    program.chmod(0o755)
    return program


def compiles(show: Path, *words: str) -> list[str]:
    """What the real compiler is called with."""
    env = clean_environment(FNAT_CCACHE=str(show))
    said = run(["dash", TOOLCHAIN / "bin" / "gcc", *words], env=env).text.split("\0")
    assert said[0] == "/usr/bin/gcc" and said[-1] == ""
    return said[1:-1]


def test_a_host_program_gets_common_symbols_and_none_of_the_kernels_flags(show: Path) -> None:
    words = ["-Wall", "-O2", "-o", "scripts/mod/modpost", "scripts/mod/modpost.c"]
    assert compiles(show, *words) == [*words, "-fcommon", "-w"]
    assert compiles(show) == ["-fcommon", "-w"]


def test_kconfig_writes_the_builds_time_into_its_header(tmp_path: Path) -> None:
    """As confdata.c of 2.6.32 does; the header is in every file that is compiled, and in kernel-devel."""
    source = tmp_path / "scripts" / "kconfig" / "zconf.tab.c"
    source.parent.mkdir(parents=True)
    source.write_text(
        "#include <sys/stat.h>\n#include <stdio.h>\n#include <time.h>\n"
        "int main(void) { time_t now; time(&now); fputs(ctime(&now), stdout); return 0; }\n"
    )
    program, words = tmp_path / "conf", ["-O2", "-o", "conf", "scripts/kconfig/zconf.tab.c"]
    run(["dash", TOOLCHAIN / "bin" / "gcc", *words], env=clean_environment(), cwd=tmp_path)
    says = {"SOURCE_DATE_EPOCH": "1340000000", "TZ": "UTC"}
    assert run([program], env=clean_environment(**says)).text == "Mon Jun 18 06:13:20 2012\n"


@pytest.mark.parametrize("mark", [KERNEL, "-D__ASSEMBLY__", "-mcmodel=kernel"])
def test_the_kernels_source_gets_what_it_needs_around_its_own_flags(show: Path, mark: str) -> None:
    words = compiles(show, "-O2", mark, "-c", "-o", "kernel/sched.o", "kernel/sched.c")
    assert words[: len(FIRST)] == FIRST
    assert words[len(FIRST) : 8] == ["-O2", mark, "-c", "-o", "kernel/sched.o", "kernel/sched.c"]
    for needed in ("-std=gnu89", "-mno-sse", "-mno-sse2", "-w"):
        assert needed in words[8:]
    assert "-fcommon" not in words
    assert f"-I{TOOLCHAIN}/include" in words
    assert any("--size-check=warning" in word for word in words)


def test_the_decompressors_wish_for_position_independent_code_wins(tmp_path: Path) -> None:
    """It runs where it was not linked for; with -fno-pie behind its -fPIC the machine resets at once."""
    source = tmp_path / "misc.c"
    source.write_text("extern int far; int *where(void) { return &far; }\n")
    made = tmp_path / "misc.s"
    words = [KERNEL, "-m64", "-O2", "-fPIC", "-S", "-o", str(made), str(source)]
    run(["dash", TOOLCHAIN / "bin" / "gcc", *words], env=clean_environment())
    assert "far@GOTPCREL" in made.read_text()


def test_the_tree_finds_that_stack_protectors_can_be_had() -> None:
    """The question of scripts/gcc-x86_64-has-stack-protector.sh, in whose answer it looks for %gs."""
    question = ["-S", "-xc", "-c", "-O0", "-mcmodel=kernel", "-fstack-protector", "-", "-o", "-"]
    source = b"int foo(void) { char X[200]; return 3; }\n"
    answer = run(["dash", TOOLCHAIN / "bin" / "gcc", *question], stdin=source, env=clean_environment()).text
    assert "%gs" in answer


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (["-m", "elf_x86_64"], ["-m64"]),
        (["-m", "elf_i386"], ["-m32"]),
        (["-m", "elf_x86_64", "-m", "elf_x86_64", "last"], ["-m64", "-m64", "last"]),
        (["-m64", "-mtune=generic"], ["-m64", "-mtune=generic"]),
        (["-m", "other"], ["-m", "other"]),
        (["-nostdlib", "-m"], ["-nostdlib", "-m"]),
        (["elf_x86_64", "-Wl,-m,elf_x86_64"], ["elf_x86_64", "-Wl,-m,elf_x86_64"]),
    ],
    ids=["vdso", "vdso32", "twice", "joined", "unknown", "last", "elsewhere"],
)
def test_the_vdsos_linker_option_becomes_the_compilers(show: Path, given: list[str], passed: list[str]) -> None:
    assert compiles(show, *given)[: -len(["-fcommon", "-w"])] == passed
    assert compiles(show, KERNEL, *given)[len(FIRST) + 1 :][: len(passed)] == passed


@pytest.mark.parametrize(
    ("source", "bare"),
    [
        ("init/main.c", True),
        ("/build/BUILD/linux/init/main.c", True),
        ("arch/x86/kernel/smpboot.c", True),
        ("arch/x86/xen/smp.c", True),
        ("arch/x86/kernel/smp.c", False),
        ("kernel/main.c", False),
        ("init/main.o", False),
    ],
)
def test_only_files_that_set_the_canary_are_compiled_without_it(show: Path, source: str, bare: bool) -> None:
    assert ("-fno-stack-protector" in compiles(show, KERNEL, "-fstack-protector", "-c", source)) is bare
    assert "-fno-stack-protector" not in compiles(show, "-c", source), "a host program has no canary to set"


@pytest.mark.parametrize(
    ("source", "apart"),
    [
        ("drivers/net/e1000e/phy.c", True),
        ("drivers/net/igb/e1000_phy.c", True),
        ("drivers/net/e1000e/lib.c", False),
        ("drivers/net/phy/phy.c", False),
    ],
)
def test_drivers_that_wait_long_in_a_small_function_keep_it_apart(show: Path, source: str, apart: bool) -> None:
    assert ("-fno-inline-small-functions" in compiles(show, KERNEL, "-c", source)) is apart


def test_words_pass_as_they_are_whatever_is_in_them(show: Path) -> None:
    words = [
        '-DVERMAGIC="2.6.32-220.23.1.el6 SMP "',
        "-DKBUILD_STR(s)=#s",
        "it's",
        "",
        "*",
        "a  b",
        "$HOME `id`",
        "back\\slash\\n",
        "line\nbreak",
        "-n",
    ]
    assert compiles(show, *words)[: len(words)] == words
    assert compiles(show, KERNEL, *words)[len(FIRST) + 1 :][: len(words)] == words


def test_without_a_compiler_cache_the_compiler_itself_is_called(tmp_path: Path) -> None:
    source, made = tmp_path / "init" / "main.c", tmp_path / "main.o"
    source.parent.mkdir()
    source.write_text(
        "#include <linux/compiler-gcc12.h>\nint seven(void) { int uninitialized_var(x); x = 7; return x; }\n"
        "#ifdef __SSE__\n#error kernel code must not use these registers\n#endif\n"
    )
    words = [KERNEL, "-D__LINUX_COMPILER_H", "-O2", "-c", str(source), "-o", str(made)]
    called("bin/gcc", words)
    assert made.read_bytes()[:4] == b"\x7fELF"
    source.write_text("int broken(\n")
    assert called("bin/gcc", words, any_status=True).status == 1


# --- ld and plt32.pl -----------------------------------------------------------------------------------


@pytest.fixture
def calling(tmp_path: Path) -> Path:
    """An object that calls what is elsewhere, as today's assembler writes it."""
    source, made = tmp_path / "calling.c", tmp_path / "calling.o"
    source.write_text(CALLS)
    run(["gcc", "-O1", "-fno-pic", "-fno-asynchronous-unwind-tables", "-c", source, "-o", made])
    assert PLT32 in relocations(made)
    return made


def relocations(path: Path) -> str:
    return run(["readelf", "-rW", path]).text


def plt32(path: Path, *, any_status: bool = False) -> Result:
    return run(["perl", TOOLCHAIN / "plt32.pl", path], accept=range(256) if any_status else (0,))


def test_every_call_is_relocated_as_the_old_loader_knows_it_and_nothing_else_changes(calling: Path) -> None:
    before, listed = calling.read_bytes(), relocations(calling)
    plt32(calling)
    renamed = re.sub(f"00000004 {PLT32} ", f"00000002 {PC32}  ", listed)
    assert relocations(calling).split() == renamed.split()
    after = calling.read_bytes()
    changed = [index for index, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert len(changed) == listed.count(PLT32) and {(before[i], after[i]) for i in changed} == {(4, 2)}
    plt32(calling)
    assert calling.read_bytes() == after, "a second time there is nothing to do"


def elf_of_32_bits(whole: bytes) -> bytes:
    return whole[:4] + b"\x01" + whole[5:]


def without_sections(whole: bytes) -> bytes:
    return whole[:60] + b"\0\0" + whole[62:]


def table_elsewhere(whole: bytes) -> bytes:
    return whole[:40] + struct.pack("<Q", 1 << 40) + whole[48:]


BROKEN = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"no ELF file at all, but long enough to have a header of one, and some more",
    "32 bits": elf_of_32_bits,
    "big-endian": lambda whole: whole[:5] + b"\x02" + whole[6:],
    "header alone": lambda whole: whole[:64],
    "within the header": lambda whole: whole[:50],
    "within the section table": lambda whole: whole[:-40],
    "half": lambda whole: whole[: len(whole) // 2],
    "no sections": without_sections,
    "table elsewhere": table_elsewhere,
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_no_whole_module_is_an_error_and_stays_as_it_is(calling: Path, broken: str) -> None:
    data = BROKEN[broken](calling.read_bytes())
    calling.write_bytes(data)
    ended = plt32(calling, any_status=True)
    assert ended.status != 0
    assert f"plt32: {calling}: " in ended.error_text
    assert calling.read_bytes() == data


def test_a_module_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert plt32(tmp_path / "missing.ko", any_status=True).status != 0


@pytest.mark.parametrize("words", [("-r", "-o", "OUT", "IN"), ("IN", "-r", "-o", "OUT")], ids=["first", "last"])
@pytest.mark.parametrize(("name", "rewritten"), [("toa.ko", True), ("built-in.o", False), ("ko", False)])
def test_of_what_is_linked_only_modules_are_rewritten(
    calling: Path, tmp_path: Path, words: tuple[str, ...], name: str, rewritten: bool
) -> None:
    made = tmp_path / "a place" / name
    made.parent.mkdir()
    places = {"OUT": str(made), "IN": str(calling)}
    called("bin/ld", [places.get(word, word) for word in words])
    assert (PLT32 not in relocations(made), PC32 in relocations(made)) == (rewritten, rewritten)


def test_a_link_that_fails_fails_with_the_linkers_status(tmp_path: Path, calling: Path) -> None:
    ended = called("bin/ld", ["-r", "-o", tmp_path / "toa.ko", tmp_path / "missing.o"], any_status=True)
    assert ended.status == 1
    assert "missing.o" in ended.error_text and "plt32" not in ended.error_text
    shutil.copy(calling, tmp_path / "old.ko")
    assert called("bin/ld", ["-o", tmp_path / "old.ko"], any_status=True).status == 1
    assert PLT32 in relocations(tmp_path / "old.ko"), "a module of before is not touched"


# --- perl ----------------------------------------------------------------------------------------------

TIMECONST = """\
my @canned = (1, 2); my %lists = (100 => [3]);
if (!defined(@canned)) { print "none "; } elsif (defined(@{$lists{100}})) { print "listed "; }
print "@ARGV\\n";
exit 3;
"""


def perl(tmp_path: Path, *words: str | Path, stdin: bytes = b"") -> Result:
    env = clean_environment(TMPDIR=str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return run(["dash", TOOLCHAIN / "bin" / "perl", *words], stdin=stdin, env=env, accept=range(256))


def test_timeconst_runs_with_its_words_and_status_and_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "kernel" / "timeconst.pl"
    script.parent.mkdir()
    script.write_text(TIMECONST)
    assert run(["perl", script], accept=range(256)).status == 255, "today's perl refuses it"
    ended = perl(tmp_path, script, "1000", "two words")
    assert (ended.status, ended.text) == (3, "listed 1000 two words\n"), ended.error_text
    assert list((tmp_path / "tmp").iterdir()) == []
    assert script.read_text() == TIMECONST, "the kernel's tree stays as it is"


def test_a_timeconst_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    assert perl(tmp_path, tmp_path / "timeconst.pl").status != 0


def test_any_other_script_is_perls_own(tmp_path: Path) -> None:
    script = tmp_path / "other.pl"
    script.write_text(TIMECONST)
    assert perl(tmp_path, script).status == 255
    file = tmp_path / "it's a file.txt"
    file.write_text("EXTRAVERSION =\n")
    assert perl(tmp_path, "-p", "-i", "-e", "s/^EXTRAVERSION.*/EXTRAVERSION = -220.el6/", file).status == 0
    assert file.read_text() == "EXTRAVERSION = -220.el6\n"
    assert perl(tmp_path, "-e", "print 'timeconst.pl'", "timeconst.pl").text == "timeconst.pl"
    assert perl(tmp_path, stdin=b"print 5;").text == "5"


# --- rpm's dependency generators -------------------------------------------------------------------------


def test_a_kernel_provides_each_symbol_with_its_checksum_once(tmp_path: Path) -> None:
    symvers = tmp_path / "boot" / "symvers-2.6.32-220.23.1.el6.toa.x86_64.gz"
    symvers.parent.mkdir()
    rows = "0x51888a5d\tinet_stream_ops\tvmlinux\tEXPORT_SYMBOL\n\n0x0000000a\t_ctype\tvmlinux\tEXPORT_SYMBOL_GPL\n" * 2
    symvers.write_bytes(gzip.compress(rows.encode()))
    listed = f"{tmp_path}/boot/config-x\n{symvers}\n{tmp_path}/lib/modules/x/kernel/toa.ko\n".encode()
    said = called("find-provides", [os.devnull], stdin=listed).text
    assert said == "kernel(_ctype) = 0x0000000a\nkernel(inet_stream_ops) = 0x51888a5d\n"


def test_a_package_without_symbols_provides_none_and_requires_nothing(tmp_path: Path) -> None:
    listed = b"/usr/include/linux/ip_vs.h\n/usr/src/kernels/x/Module.symvers\n"
    assert called("find-provides", [], stdin=listed).text == ""
    assert called("find-requires", ["kernel"], stdin=listed * 100_000).text == ""


def test_symbols_that_cannot_be_read_are_not_an_empty_list(tmp_path: Path) -> None:
    symvers = tmp_path / "boot" / "symvers-x.gz"
    symvers.parent.mkdir()
    symvers.write_bytes(b"no gzip")
    assert called("find-provides", [], stdin=f"{symvers}\n".encode(), any_status=True).status != 0


# --- What the image must have -----------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A directory of programs, all that the spec requires."""
    directory = tmp_path / "image"
    directory.mkdir()
    for name in kernel.PROGRAMS:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    return directory


def looked(image: Path, log: Path) -> Result:
    """What the spec's preparation, as bash runs it, says of an image; our wrapper stands before its programs."""
    [edit] = [edit for edit in kernel.edits(DEBIAN) if edit.anchor == "%prep"]
    script = "\n".join((*edit.lines, "echo go on")).replace(kernel.IMAGE_PATH, str(image))
    env = clean_environment(PATH=f"{TOOLCHAIN / 'bin'}:{os.environ['PATH']}")
    ended = run(["bash", "-xc", script], env=env, accept=range(256))
    log.write_text(ended.error_text + ended.text)
    return ended


def test_an_image_with_every_program_is_built_in(image: Path, tmp_path: Path) -> None:
    ended = looked(image, tmp_path / "log")
    assert (ended.status, ended.text) == (0, "go on\n")
    kernel.explain(tmp_path / "log", DEBIAN)


def test_programs_that_the_image_lacks_are_named_before_anything_else_is_done(image: Path, tmp_path: Path) -> None:
    (image / "m4").unlink()
    (image / "gcc").unlink()  # the wrapper's is still there
    ended = looked(image, tmp_path / "log")
    assert ended.status != 0 and "go on" not in ended.text
    with pytest.raises(HostLacks) as caught:
        kernel.explain(tmp_path / "log", DEBIAN)
    assert caught.value.what.endswith("the image debian12 lacks programs that the kernel's spec file requires: m4 gcc")
    assert caught.value.where == str(tmp_path / "log")
    assert "./inv clean images" in caught.value.hint


def test_an_image_made_of_the_specs_own_requirements_is_not_looked_through() -> None:
    centos = replace(DEBIAN, image=kernel.BUILDER_WITH_SIGNING)
    assert "%prep" not in {edit.anchor for edit in kernel.edits(centos)}
