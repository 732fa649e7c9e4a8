"""Describe how a line's directors and real servers speak of FULLNAT and TOA, as data.

A role with a kernel of its own has the tools and the module of the FULLNAT patches for 2.6.32; a role whose packages
stand beside the stock kernel has those packages' words. Must not know a line by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.line_model import LineData, RoleName
from pipeline.core import documents

_IPVS = "/proc/sys/net/ipv4/vs"


@dataclass(frozen=True)
class DirectorDialect:
    """The words of a director's ipvsadm and kernel for FULLNAT.

    `add_local` is ipvsadm's command for a local address, which stands behind `local`; `list_local` the one for their
    list, which has the words `columns`. `feature` is a file that IPVS has with FULLNAT alone,
    `option_file` one with the number of TOA's option. `limit_ports` and `free_ports` are scripts that leave local
    addresses the ports from $FIRST to $LAST, and all of them; they find the service in $SERVICE and the address in
    $LOCAL. `table` is the size of the table of connections, where FULLNAT brings one of its own. `counts_failures`: the
    last column of the list counts the connections that got no port. `saves`: saved rules have FULLNAT and local
    addresses.
    """

    forward: str
    add_local: str
    local: str
    list_local: str
    columns: tuple[str, ...]
    feature: str
    limit_ports: str
    free_ports: str
    option_file: str = ""
    table: str = ""
    has_synproxy: bool = False
    counts_failures: bool = False
    saves: bool = False


@dataclass(frozen=True)
class ReaderDialect:
    """The way a real server reads TOA: scripts of shell.

    `start` makes it read and believe the director in $TRUST, if that is set; `reads` ends with 0 where it does read;
    `count` takes the output of `stats` for the numbers of connections with and without the option.
    """

    start: str
    reads: str
    stats: str
    count: Callable[[str], tuple[int, int]]


@dataclass(frozen=True)
class Dialect:
    """The words of a director's line and a real server's.

    `option` is the number of TOA's option that the director writes; None where no rule of its line names it.
    """

    director: DirectorDialect
    reader: ReaderDialect
    option: int | None


def _of_toa_stats(text: str) -> tuple[int, int]:
    """Read /proc/net/toa_stats, summed over the processors."""
    rows = (line.replace(":", " ").split() for line in text.splitlines())
    found = {row[0]: sum(int(word) for word in row[1:] if word.isdigit()) for row in rows if len(row) > 1}
    return found.get("syn_recv_sock_toa", 0), found.get("syn_recv_sock_no_toa", 0)


def _of_status(text: str) -> tuple[int, int]:
    """Read what `lvs-toa status --json` prints; nothing is printed where there is no such program."""
    status = documents.parse(dict[str, Any], text) if text.strip() else {}
    counters: Mapping[str, int] = status.get("counters", {})
    return counters.get("accepted", 0), counters.get("without", 0)


PATCHED_DIRECTOR = DirectorDialect(
    forward="-b",
    add_local="-P",
    local="-z",
    list_local="-G",
    columns=("TOTAL", "SNAT_IP", "CONFLICTS", "CONNS"),
    feature=f"{_IPVS}/fullnat_lport_min",
    limit_ports=f"""cd {_IPVS}
cat fullnat_lport_min fullnat_lport_max >/run/local_ports
echo "$FIRST" >fullnat_lport_min
echo "$LAST" >fullnat_lport_max
""",
    free_ports=f"""{{ read -r least; read -r most; }} </run/local_ports
cd {_IPVS}
echo "$least" >fullnat_lport_min
echo "$most" >fullnat_lport_max
""",
    table="size=4194304",  # two to the power of 22
    has_synproxy=True,
)
MODULES_DIRECTOR = DirectorDialect(
    forward="--fullnat",
    add_local="--add-laddr",
    local="--laddr",
    list_local="--get-laddr",
    columns=("Used", "Free", "Failures"),
    feature=f"{_IPVS}/fullnat_toa_option",
    option_file=f"{_IPVS}/fullnat_toa_option",
    limit_ports='ipvsadm --edit-laddr -t "$SERVICE" --laddr "$LOCAL:$FIRST-$LAST"\n',
    free_ports='ipvsadm --edit-laddr -t "$SERVICE" --laddr "$LOCAL"\n',
    counts_failures=True,
    saves=True,
)
MODULE_READER = ReaderDialect(
    start="modprobe toa\n",
    reads="test -e /proc/net/toa_stats\n",
    stats="cat /proc/net/toa_stats\n",
    count=_of_toa_stats,
)
PROGRAM_READER = ReaderDialect(
    # systemd mounts both at boot; guests have no init system
    start="""grep -q ' /sys/fs/cgroup cgroup2 ' /proc/mounts || mount -t cgroup2 cgroup2 /sys/fs/cgroup
grep -q ' /sys/fs/bpf bpf ' /proc/mounts || mount -t bpf bpf /sys/fs/bpf
[ -z "$TRUST" ] || echo "trust = $TRUST" >>/etc/lvs-toa.conf
lvs-toa start
""",
    reads="lvs-toa status\n",
    stats="lvs-toa status --json\n",
    count=_of_status,
)


def of_line(line: LineData, servers: LineData | None = None) -> Dialect:
    """Return the words of a line, by the kinds of the packages that its roles have beside the stock kernel.

    `servers` is the line of the real servers, where that is another.
    """
    director, reader = PATCHED_DIRECTOR, MODULE_READER
    if "module-set" in _kinds(line, RoleName.DIRECTOR):
        director = MODULES_DIRECTOR
    if "toa-reader" in _kinds(servers or line, RoleName.REALSERVER):
        reader = PROGRAM_READER
    rule = line.rules.get(RoleName.DIRECTOR)
    return Dialect(director, reader, rule.option_number if rule else None)


def _kinds(line: LineData, role: RoleName) -> set[str]:
    return {str(line.packages[name].kind) for name in line.packages_of(role)}
