"""Decide whether two packages work together: one option number, one interface, one kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.audit.identity import Identity, Kind, Pair, Role
from pipeline.audit.verdict import READ, WRITTEN
from pipeline.inspect.module_facts import Interface

_BPF_FROM = (5, 10)  # the oldest kernel that lvs-toa's programs run on: specs/lvs-toa/lvs-toa.8
_KERNELS = (Kind.KERNEL, Kind.PARTIAL, Kind.MODULES)

Answer = tuple[bool | None, str]


def pair_of(first: Identity, second: Identity) -> Pair:
    """Return whether two packages work together. Of two that have nothing to do with each other `related` is false."""
    answers = [answer for one, other in ((first, second), (second, first)) for answer in _answers(one, other)]
    works = (
        False if any(answer is False for answer, _ in answers) else None if any(a is None for a, _ in answers) else True
    )
    reasons = tuple(dict.fromkeys(reason for _, reason in answers))
    if not answers:
        return Pair(first.file, second.file, None, False, ("no two parts of one installation",))
    return Pair(first.file, second.file, works, True, reasons)


def _answers(one: Identity, other: Identity) -> Iterator[Answer]:
    """Yield the answers for the relations in which `one` is the first part."""
    if Role.DIRECTOR in one.has and one.kind in _KERNELS and Role.REALSERVER in other.has:
        yield _option(one, other)
    if one.kind in _KERNELS and other.kind is Kind.TOOL:
        yield _interface(one, other)
    roles = set(one.has), set(other.has)
    two_machines = all(roles) and not roles[0] & roles[1]  # a director's and a real server's
    if one.kind in (Kind.KERNEL, Kind.PARTIAL) and other.kind is Kind.MODULES and not two_machines:
        same = one.kernel == other.kernel
        yield same, f"the modules are for {other.kernel}, the kernel is {one.kernel}"
    if one.kind is Kind.KERNEL and other.kind is Kind.READER and Role.DIRECTOR not in one.has:
        yield _bpf(one)


def _option(director: Identity, server: Identity) -> Answer:
    written, read = director.option(WRITTEN), server.option(READ)
    if written is None or read is None or not written.numbers or not read.numbers:
        texts = (written.text if written else "unknown", read.text if read else "unknown")
        return None, "the director writes the option {}, the server reads {}".format(*texts)
    same = set(written.numbers) <= set(read.numbers)
    return same, f"the director writes the option {written.text}, the server reads {read.text}"


def _interface(kernel: Identity, tool: Identity) -> Answer:
    texts = {
        Interface.NONE: "has no FULLNAT",
        Interface.SOCKOPT: "speaks the original FULLNAT's sockopt interface",
        Interface.NETLINK: "speaks the netlink interface of kmod-lvs-fullnat",
    }
    reason = f"the kernel {texts[kernel.interface]}, the tool {texts[tool.interface]}"
    if kernel.role is Role.UNKNOWN:
        return None, reason
    if kernel.kind is Kind.PARTIAL and Role.DIRECTOR not in kernel.has:
        return None, "this part of a kernel does not say whether the kernel has FULLNAT"
    return kernel.interface is tool.interface, reason


def _bpf(kernel: Identity) -> Answer:
    match = re.match(r"(\d+)\.(\d+)", kernel.kernel)
    least = ".".join(map(str, _BPF_FROM))
    if match is None:
        return None, f"lvs-toa needs a kernel from {least} on, and this one has no number"
    return (
        int(match[1]),
        int(match[2]),
    ) >= _BPF_FROM, f"lvs-toa needs a kernel from {least} on, this one is {kernel.kernel}"
