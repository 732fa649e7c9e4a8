"""Packages changed at random, their digests right all the same: each is identified or refused, quickly and in little.

A longer run: `python -m tests.component.audit.test_identify_mutations SECONDS`.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.audit.identify import identify
from pipeline.errors import PipelineError
from pipeline.inspect.contents import Depth
from tests.fixtures.kernelparts import director, module, realserver
from tests.fixtures.rawrpms import COMPRESSIONS, Entry, cpio, entry, write

SECONDS, MEMORY = 20.0, 300 << 10  # for one package; KiB more than before
BASES = (
    director(),
    realserver(),
    [entry("/lib/modules/6.1/updates/ip_vs.ko", module("ip_vs", "NETLINK", kernel="6.1"))],
)
INTERESTING = (
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"TRAILER!!!\0",
    b"../",
    b"\0",
    b"\xff",
)


def changed(data: bytes, chance: random.Random) -> bytes:
    """The bytes with a few of them changed, removed, repeated or inserted."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(made) + 1)
        kind = chance.randrange(5)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            made[at : at + 4] = chance.choice(INTERESTING)
        elif kind == 2:
            del made[at : at + chance.choice((1, 4, 100, len(made)))]
        elif kind == 3:
            made[at:at] = made[at : at + chance.choice((4, 110, 1000))]
        else:
            made[at:at] = chance.choice(INTERESTING)
    return bytes(made)


def mutant(path: Path, chance: random.Random) -> Path:
    """A package in which a file, the archive, the compressed payload, the header or the whole was changed."""
    content: Sequence[Entry] = chance.choice(BASES)
    compression = chance.choice(list(COMPRESSIONS))
    kind = chance.randrange(5)
    if kind == 0:
        number = chance.randrange(len(content))
        content = [
            replace(item, data=changed(item.data, chance)) if at == number else item for at, item in enumerate(content)
        ]
        return write(path, content, compression=compression)
    if kind == 1:
        return write(path, content, payload=changed(cpio(content), chance), compression=compression)
    if kind == 2:
        packed = changed(COMPRESSIONS[compression](cpio(content)), chance)
        return write(path, content, payload=packed, compression="none")
    if kind == 3:
        return write(path, content, compression=compression, header_damage=lambda data: changed(data, chance))
    whole = write(path, content, compression=compression, old=True)
    path.write_bytes(changed(whole.read_bytes(), chance))
    return path


def attempt(place: Path, seed: int) -> str:
    """Identify the mutant of this number; return how that ended. Any other exception is a mistake of ours."""
    path = mutant(place / "a.rpm", random.Random(seed))
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        (found,) = identify([path], None, Depth.MODULES).packages
        ended = str(found.role)
    except PipelineError as error:
        ended = type(error).__name__
    assert time.monotonic() - began < SECONDS, seed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY, seed
    assert [item.name for item in place.iterdir()] == ["a.rpm"], seed
    return ended


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_a_mutant_is_identified_or_refused(tmp_path: Path, first: int) -> None:
    ends = {attempt(tmp_path, seed) for seed in range(first, first + 50)}
    assert "Refused" in ends


if __name__ == "__main__":
    until, number, ends = time.monotonic() + float(sys.argv[1]), 1000, dict[str, int]()
    with tempfile.TemporaryDirectory() as directory:
        while time.monotonic() < until:
            try:
                ended_as = attempt(Path(directory), number)
            except Exception as error:
                error.add_note(f"seed {number}")
                raise
            ends[ended_as] = ends.get(ended_as, 0) + 1
            number += 1
    print(number - 1000, "mutants:", ends)
