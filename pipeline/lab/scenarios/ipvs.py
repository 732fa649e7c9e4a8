"""Share IPVS operations between scenarios: rules by ipvsadm, the role packages' scripts, ipvsadm's lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from pipeline.lab.vm.machine import CompletedCommand, Machine

_SERVICE = re.compile(r"^(TCP|UDP)\s+(\S+)\s+(\w+)(.*)$")
_SERVER = re.compile(r"^\s*->\s+(\d\S+)\s+(\w+)\s+(\d+)\s+(\d+)\s+(\d+)\s*$")


def script(role: str) -> str:
    """Return the path of the role package's script, which both init systems call."""
    return f"/usr/libexec/lvs-fnat/lvs-fnat-{role}"


def configure_role(
    machine: Machine, role: str, settings: Mapping[str, str], *, timeout: float = 15.0
) -> CompletedCommand:
    """Configure the role package of a machine and start it."""
    text = "".join(f"{key}={value}\n" for key, value in settings.items())
    machine.write_file(f"/etc/lvs-fnat/{role}.conf", text.encode())
    return machine.run(script(role), "start", timeout=timeout)


def add_rules(machine: Machine, text: str) -> None:
    """Add rules, one command of ipvsadm a line."""
    for line in text.strip().splitlines():
        machine.run("ipvsadm", *line.split())


def list_servers(machine: Machine, service: str) -> list[str]:
    """Return the servers of a service as `ipvsadm -Ln` lists them: `ADDRESS:PORT FORWARD WEIGHT`, sorted."""
    found, inside = [], False
    for line in machine.run("ipvsadm", "-Ln").out.splitlines():
        if match := _SERVICE.match(line):
            inside = match[2] == service
        elif inside and (match := _SERVER.match(line)):
            found.append(f"{match[1]} {match[2]} {match[3]}")
    return sorted(found)


def connected_servers(machine: Machine, addresses: Iterable[str]) -> list[str]:
    """Return the servers among `addresses` that the connection table names.

    Reads the kernel's own list: `ipvsadm -Lnc` of the FULLNAT tools garbles the state column.
    """
    table = machine.run("cat", "/proc/net/ip_vs_conn").out
    return sorted(address for address in addresses if f" {int(IPv4Address(address)):08X} " in table)
