"""Describe the guests of a scenario and the segments that their cards are on, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

DIRECTOR_MEMORY, MEMORY = 512, 192  # MiB; a table of 2^22 connections takes 64: CONFIG_IP_VS_TAB_BITS=22
KASAN_FACTOR = 4  # its shadow is an eighth, and what is freed is kept back to be watched


class Part(StrEnum):
    """A guest's part in a scenario."""

    DIRECTOR = "director"
    SERVER = "server"
    CLIENT = "client"
    ROUTER = "router"  # between them; its role is the plan's own


@dataclass(frozen=True)
class Interface:
    """A network interface of a guest: its segment and its addresses with their prefix. The first one is eth0."""

    segment: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class GuestPlan:
    """A guest: `packages` by name, from the set of its kernel's role; `routes` as `ip route add` takes them.

    `modules` are loaded at boot, and its kernel must have them. `spare` ones are copied where its kernel has them, and
    loaded on demand; a scenario may test that one is missing. With a `counted` clock time passes with the guest's own
    instructions, whatever the host does beside it: for measurements within one guest.
    """

    name: str
    part: Part
    interfaces: tuple[Interface, ...]
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    optional_modules: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    vip: str = ""  # that it holds, or may hold, and where: for the report's drawing
    counted: bool = False
    role: str = ""  # of its kernel, where it is not the one that the line gives to its part

    def memory(self, config: Mapping[str, str]) -> int:
        """Return the guest's memory in MiB, for a kernel of this configuration."""
        usual = DIRECTOR_MEMORY if self.part is Part.DIRECTOR else MEMORY
        return usual * KASAN_FACTOR if config.get("CONFIG_KASAN") == "y" else usual


# For iptables; kernels differ in which of them they have, and in the names.
FIREWALL_MODULES = ("iptable_filter", "iptable_nat", "ipt_REDIRECT", "xt_REDIRECT", "xt_tcpudp")
