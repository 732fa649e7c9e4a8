"""Read the counters of a guest's network stack: they tell what went wrong on the way and was made good by TCP."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.lab.vm.machine import Machine


def parse(text: str) -> dict[str, int]:
    """Parse /proc/net/snmp and /proc/net/netstat into counters by nstat's names, such as `TcpRetransSegs`.

    Either has two lines for a protocol: the names, and the values.
    """
    lines = text.strip().splitlines()
    found: dict[str, int] = {}
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        protocol, *keys = names.split()
        pairs = zip(keys, values.split()[1:], strict=True)
        found.update({f"{protocol.rstrip(':')}{key}": int(value) for key, value in pairs})
    return found


def read(machine: Machine) -> dict[str, int]:
    """Return the counters of a guest."""
    return parse(machine.run("cat", "/proc/net/snmp", "/proc/net/netstat").out)


def since(before: Mapping[str, int], machine: Machine) -> dict[str, int]:
    """Return what a guest counted since `before`."""
    return {name: value - before.get(name, 0) for name, value in read(machine).items()}
