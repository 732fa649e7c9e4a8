"""What Kbuild and other builds record of a compilation is read in the forms of each time."""

from __future__ import annotations

import pytest

from pipeline.formats.compiler_records import Compilation, parse_kbuild, parse_rules

# As Linux 6.1 writes it, shortened; 2.6.32 has no line `source_`, and 6.12 says `savedcmd_`.
OF_6_1 = """\
cmd_net/ipv4/tcp.o := gcc -Wp,-MMD,net/ipv4/.tcp.o.d -nostdinc -D__KERNEL__ -O2 -c -o net/ipv4/tcp.o net/ipv4/tcp.c

source_net/ipv4/tcp.o := net/ipv4/tcp.c

deps_net/ipv4/tcp.o := \\
    $(wildcard include/config/MMU) \\
  include/linux/compiler-version.h \\
    $(wildcard include/config/CC_VERSION_TEXT) \\
  include/net/tcp.h \\

net/ipv4/tcp.o: $(deps_net/ipv4/tcp.o)

$(deps_net/ipv4/tcp.o):
"""
FILES = ("net/ipv4/tcp.c", "include/linux/compiler-version.h", "include/net/tcp.h")
OF_2_6_32 = OF_6_1.replace("source_net/ipv4/tcp.o := net/ipv4/tcp.c\n\n", "").replace(
    ":= \\\n    $(wildcard include/config/MMU)", ":= \\\n  net/ipv4/tcp.c \\\n    $(wildcard include/config/mmu.h)"
)


@pytest.mark.parametrize("text", [OF_6_1, OF_2_6_32, OF_6_1.replace("cmd_net", "savedcmd_net")])
def test_kbuilds_record_names_the_source_first_and_every_header(text: str) -> None:
    assert parse_kbuild(text) == Compilation(FILES, is_kernel=True)


def test_a_program_of_the_build_is_no_kernel_code() -> None:
    found = parse_kbuild(OF_6_1.replace("-D__KERNEL__", "-D__KERNEL__X"))
    assert found is not None and not found.is_kernel


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cmd_vmlinux.o := ld -r -o vmlinux.o a.o b.o\n",
        "deps_config := \\\n\tinit/Kconfig \\\n\tKconfig \\\n\ninclude/config/auto.conf: $(deps_config)\n",
        "deps_",
        "\x00\xff" * 100,
    ],
)
def test_what_is_no_compilation_is_passed_over(text: str) -> None:
    assert parse_kbuild(text) is None


def test_rules_of_make_name_source_and_headers_once() -> None:
    text = (
        "vrrp.o: vrrp.c /usr/include/stdio.h \\\n ../include/vrrp.h vrrp.c\n/usr/include/stdio.h:\n../include/vrrp.h:\n"
    )
    assert parse_rules(text) == Compilation(("vrrp.c", "/usr/include/stdio.h", "../include/vrrp.h"), is_kernel=False)


@pytest.mark.parametrize("text", ["# dummy\n", "", "a\n"])
def test_an_object_that_was_not_compiled_has_no_record(text: str) -> None:
    assert parse_rules(text) is None
