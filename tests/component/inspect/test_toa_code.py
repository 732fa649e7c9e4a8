"""The option's number out of compiled code: of the shapes of the original's modules and of the project's own."""

from __future__ import annotations

import pytest

from pipeline.formats.elf_object import Object
from pipeline.inspect import module_facts, toa_code
from pipeline.inspect.module_facts import Interface, ModuleFacts
from tests.fixtures.kernelparts import KERNEL, module, stripped

LEVELS = ("-O1", "-O2", "-O3", "-Os")
NUMBERS = (200, 252, 254)


def facts(data: bytes, name: str) -> ModuleFacts:
    return module_facts.read(data, f"/lib/modules/{KERNEL}/kernel/{name}.ko")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_servers_module_says_what_it_reads(number: int, level: str) -> None:
    found = facts(module("toa", option=number, level=level), "toa")
    assert (found.option.numbers, bool(found.toa), found.kernel) == ((number,), True, KERNEL)


@pytest.mark.parametrize("level", LEVELS)
def test_a_comparison_is_followed_to_where_an_equal_length_leads(level: str) -> None:
    found = facts(module("toa", "APART", option=254, other=8, level=level), "toa")
    assert (found.option.numbers, found.option.functions) == ((254,), ("tcp_v4_syn_recv_sock_toa",))
    assert facts(module("toa", "APART", "LENGTH=20", option=254, other=8), "toa").option.numbers == ()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_directors_module_says_what_it_writes(number: int, level: str) -> None:
    found = facts(module("ip_vs", "SOCKOPT", option=number, level=level), "ip_vs")
    assert (found.option.numbers, found.interface) == ((number,), Interface.SOCKOPT)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("number", NUMBERS)
def test_the_projects_own_module_says_its_default(number: int, level: str) -> None:
    found = facts(module("ip_vs", "NETLINK", option=number, level=level), "ip_vs")
    assert (found.option.numbers, found.interface) == ((number,), Interface.NETLINK)


def test_calls_between_do_not_hide_the_default() -> None:
    assert facts(module("ip_vs", "NETLINK", "CHECKED", option=254), "ip_vs").option.numbers == (254,)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_stripped_servers_module_is_read_whole(number: int) -> None:
    found = facts(stripped(module("toa", option=number)), "toa")
    assert (found.option.numbers, found.option.functions) == ((number,), ("the whole code",))


@pytest.mark.parametrize("kind", ["SOCKOPT", "NETLINK"])
def test_of_a_stripped_directors_module_the_number_is_unknown(kind: str) -> None:
    # tcp_fnat_in_handler and the table keep their names only where something outside refers to them
    data = stripped(module("ip_vs", kind, option=254), "--strip-all")
    assert facts(data, "ip_vs").option.numbers == ()
    assert facts(data, "ip_vs").interface is Interface[kind]


def test_functions_that_contradict_each_other_leave_both_numbers() -> None:
    assert facts(module("toa", option=200, other=254), "toa").option.numbers == (200, 254)


def test_no_number_is_found_where_none_is() -> None:
    for data in (module("ip_vs"), module("toa", option=8), module("toa", "LENGTH=20")):
        found = Object(data, "a")
        readings = (
            toa_code.read_by_servers(found),
            toa_code.written_by_directors(found),
            toa_code.default_of_sysctl(found),
        )
        assert [reading.numbers for reading in readings] == [(), (), ()]


@pytest.mark.parametrize("bits", [8, 12, 22])
def test_the_size_of_the_connection_table_is_the_parameters_default(bits: int) -> None:
    assert facts(module("ip_vs", bits=bits), "ip_vs").tab_bits == bits
    assert facts(stripped(module("ip_vs", bits=bits)), "ip_vs").tab_bits == bits


def test_a_size_that_no_table_has_is_none() -> None:
    assert facts(module("ip_vs", bits=99), "ip_vs").tab_bits is None


def test_a_name_alone_makes_no_toa() -> None:
    assert facts(module("ip_vs"), "toa").toa == ""
