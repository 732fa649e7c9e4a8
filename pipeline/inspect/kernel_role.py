"""Establish the role of a built kernel by the content of its packages, and check the kernel ABI.

A name and a buildid are claims; these are the proofs. The rules are facts of the two patches: symbols, options and
files that only a patched tree has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config.line_model import RoleName
from pipeline.errors import Refused
from pipeline.formats import kconfig
from pipeline.inspect import kernel_files
from pipeline.inspect.guide_mistakes import WRONG_PATCH
from pipeline.packaging.rpmbuild import Package

FULLNAT_WORD = b"IP_VS_CONN_F_FULLNAT"  # of the director's linux/ip_vs.h


@dataclass(frozen=True)
class RoleEvidence:
    """The role-specific content of a kernel's packages. `symbols` map to their CRCs."""

    config: Mapping[str, str]
    symbols: Mapping[str, str]
    toa: tuple[str, ...]
    fullnat_header: bool

    @property
    def signs(self) -> dict[RoleName, dict[str, bool]]:
        """The presence of each role's signs."""
        return {
            RoleName.DIRECTOR: {
                "CONFIG_IP_VS_TAB_BITS is 22": self.config.get("CONFIG_IP_VS_TAB_BITS") == "22",
                "exports ip_vs_synproxy_cookie_v4_init_sequence": "ip_vs_synproxy_cookie_v4_init_sequence"
                in self.symbols,
                f"linux/ip_vs.h has {FULLNAT_WORD.decode()}": self.fullnat_header,
            },
            RoleName.REALSERVER: {
                "has kernel/net/toa/toa.ko": bool(self.toa),
                "CONFIG_TOA is m": self.config.get("CONFIG_TOA") == "m",
                "exports kallsyms_lookup_name": "kallsyms_lookup_name" in self.symbols,
            },
        }

    @property
    def role(self) -> RoleName | None:
        """The role with all of its signs and no sign of another role; stock without any sign, else None."""
        full = [role for role, signs in self.signs.items() if all(signs.values())]
        some = [role for role, signs in self.signs.items() if any(signs.values())]
        if not some:
            return RoleName.STOCK
        return full[0] if len(full) == 1 and some == full else None

    def to_json(self) -> dict[str, object]:
        """Return the role and the signs as evidence keeps them."""
        return {"role": self.role, "signs": self.signs}


def read_evidence(kernel: Package, headers: Package, uname: str) -> RoleEvidence:
    """Read the evidence of a kernel package and its headers."""
    config, symvers = f"/boot/config-{uname}", f"/boot/symvers-{uname}.gz"
    header = "/usr/include/linux/ip_vs.h"
    content = kernel_files.read(kernel, [config, symvers])
    return RoleEvidence(
        config=kconfig.values(content[config].decode(errors="replace")),
        symbols=kernel_files.parse_symvers(content[symvers], f"{kernel.path.name}:{symvers}"),
        toa=tuple(path for path in kernel.files if path.endswith("/net/toa/toa.ko")),
        fullnat_header=FULLNAT_WORD in kernel_files.read(headers, [header])[header],
    )


def check_role(evidence: RoleEvidence, wanted: RoleName, name: str) -> None:
    """Raise `Refused`, with all wrong signs, unless the content is that of the role."""
    if evidence.role is wanted:
        return
    rows = [
        f"  {'lacks' if role is wanted else 'has'} the sign of a {role}: {sign}"
        for role, signs in evidence.signs.items()
        for sign, there in signs.items()
        if there != (role is wanted)
    ]
    got = f"a {evidence.role}'s" if evidence.role else "no role's"
    why = "its name and its content contradict each other"
    if wanted is RoleName.REALSERVER and evidence.role is RoleName.DIRECTOR:
        why = WRONG_PATCH
    raise Refused(
        "\n".join([f"{name}: wrong role by content; expected a {wanted}'s kernel, got {got}", *rows]),
        where=name,
        why=why,
        hint="`./inv patches` shows the patch of each role and its proof",
    )


def check_crcs(evidence: RoleEvidence, wanted: Mapping[str, str], name: str) -> None:
    """Raise `Refused` unless the exported symbols have the CRCs `wanted`, which distinguish the roles.

    The line file states them for the distribution's configuration.
    """
    differing = {
        s: (crc, evidence.symbols.get(s, "none")) for s, crc in wanted.items() if evidence.symbols.get(s) != crc
    }
    if differing:
        rows = [f"  {symbol}: expected {crc}, got {actual}" for symbol, (crc, actual) in list(differing.items())[:20]]
        more = [f"  and {len(differing) - len(rows)} more"] if len(differing) > len(rows) else []
        raise Refused(
            "\n".join([f"{name}: wrong CRC of {len(differing)} exported symbol(s)", *rows, *more]),
            where=name,
            why="a module built for this kernel line would not load, or would load and corrupt memory",
            hint="`./inv patches` shows the patch of each role and its proof",
        )


def check_kabi(evidence: RoleEvidence, reference: Mapping[str, str], changed: Mapping[str, str], name: str) -> int:
    """Check exported symbols against the distribution's list, and return the number of symbols in that list.

    The symbols `changed`, which the role's patches are known to change, are allowed with exactly these CRCs.
    """
    check_crcs(evidence, {**reference, **changed}, name)
    return len(reference)
