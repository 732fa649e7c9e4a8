"""Judge collected contents: kind, role by content, option number, size of the connection table, contradictions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pipeline.audit.identity import Evidence, Kind, Option, Problem, Role
from pipeline.inspect.contents import Contents, Depth
from pipeline.inspect.module_facts import TAB_BITS_RANGE, Interface, ModuleFacts, normalized
from pipeline.inspect.toa_code import OptionReading

WRITTEN, READ = "written", "read"
_BOOT, _MODULES, _CODE, _HEADER = "/boot", "module's content", "machine code", "header"
_TAB_BITS = "CONFIG_IP_VS_TAB_BITS"
_X86 = ("", "x86_64", "i386", "i586", "i686", "noarch")  # architectures of packages
_UPDATES = re.compile(
    r"(?:/usr)?/lib/modules/[^/]+/updates/"
)  # depmod.d(5): searched first where nothing is configured


@dataclass
class Verdict:
    """The judgement of contents, with the evidence of it. `director` and `server` are None when not established."""

    contents: Contents
    depth: Depth
    where: str
    forced: Kind | None = None  # what is known otherwise, as of a kernel that runs
    evidence: list[Evidence] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    options: list[Option] = field(default_factory=list)
    kind: Kind = Kind.OTHER
    director: bool | None = None
    server: bool | None = None
    interface: Interface = Interface.NONE
    tab_bits: int | None = None

    def __post_init__(self) -> None:
        self.ipvs = self._modules("ip_vs")
        self.toa = [facts for path, facts in self.contents.modules.items() if normalized(path) != "ip_vs"]
        self.kind = self.forced or self._kind()
        if self.kind in (Kind.KERNEL, Kind.PARTIAL, Kind.MODULES):
            self.director, self.server = self._director(), self._server()
            self._check_kernel()
            self.tab_bits = self._tab_bits()
        elif self.kind is Kind.TOOL:
            self._judge_tools()
        elif self.kind is Kind.READER:
            self._judge_reader()

    @property
    def kernel(self) -> str:
        """The release of the kernel, by the paths."""
        return ", ".join(self.contents.kernels)

    @property
    def has(self) -> tuple[Role, ...]:
        """The roles of which there is a sign."""
        rows = ((Role.DIRECTOR, self.director), (Role.REALSERVER, self.server))
        return tuple(role for role, found in rows if found)

    @property
    def role(self) -> Role:
        """The role by content."""
        if self.kind in (Kind.OTHER, Kind.SOURCE):
            return Role.NONE
        if self.kind is Kind.PARTIAL:
            return Role.PARTIAL
        if self.director and self.server:
            return Role.BOTH
        if self.kind is Kind.MODULES and not (self.director or self.server):
            return Role.UNKNOWN if None in (self.director, self.server) else Role.STOCK if self.ipvs else Role.NONE
        if None in (self.director, self.server):
            return Role.UNKNOWN
        return self.has[0] if self.has else Role.STOCK

    def say(self, about: str, text: str, where: str, how: str) -> None:
        """Add a piece of evidence."""
        self.evidence.append(Evidence(about, text, where, how))

    def _modules(self, name: str) -> list[ModuleFacts]:
        """Return the modules of a name that were read; of several those in updates/, which modprobe prefers."""
        found = [facts for path, facts in self.contents.modules.items() if normalized(path) == name]
        return [facts for facts in found if _UPDATES.match(facts.path)] or found

    def _kind(self) -> Kind:
        contents, config = self.contents, self.contents.config or {}
        if contents.has_image or contents.has_tree:
            lacks = "" if contents.has_image else "no boot image is in it"
            if not lacks and config.get("CONFIG_MODULES") == "y" and not contents.has_tree:
                lacks = "its configuration has modules, and none is in it"
            if not lacks and config.get("CONFIG_IP_VS") == "m" and not contents.listed_modules("ip_vs"):
                lacks = "its configuration has IPVS as a module, which is not in it"
            self.say("kind", lacks or "a boot image and its modules", self.where, _HEADER)
            return Kind.PARTIAL if lacks else Kind.KERNEL
        if contents.has_modules:
            self.say("kind", "modules outside a kernel's own directory", self.where, _HEADER)
            return Kind.MODULES
        if contents.readers:
            return Kind.READER
        return Kind.TOOL if contents.tools else Kind.OTHER

    def _director(self) -> bool | None:
        """Return whether IPVS has FULLNAT."""
        symbol, where = self.contents.exported
        if symbol:
            self.say("role", f"the image exports {symbol}, of the LVS patch: a director", where, _BOOT)
        if self.ipvs:
            found = [facts for facts in self.ipvs if facts.interface is not Interface.NONE]
            for facts in self.ipvs:
                text = f"IPVS with FULLNAT ({facts.fullnat}): a director" if facts in found else "IPVS without FULLNAT"
                self.say("role", text, facts.path, _MODULES)
            if symbol and not found:
                self.contradict(f"{where} exports {symbol}, and {self.ipvs[0].path} has no FULLNAT")
                return None
            if self.contents.exports and not symbol and any(each.interface is Interface.SOCKOPT for each in found):
                what = f"{found[0].path} has the FULLNAT of the LVS patch, and no image that exports what it needs"
                self.contradict(what)
                return None
            if found:
                self.interface = found[0].interface
                writes = [self._option(facts, WRITTEN, facts.option) for facts in found]
                self.options.extend(dict.fromkeys(writes))
            return bool(found)
        if symbol:
            self.interface = Interface.SOCKOPT
            self.options.append(Option(WRITTEN, (), "the module ip_vs was not read"))
            return True
        return self._director_by_image()

    def _director_by_image(self) -> bool | None:
        """Return whether an IPVS that is built in has FULLNAT; False for a kernel without IPVS."""
        if self.contents.listed_modules("ip_vs") or self.contents.config is None:
            return False if self.kind is Kind.MODULES and not self.contents.listed_modules("ip_vs") else None
        value = self.contents.config.get("CONFIG_IP_VS", "n")
        where = next(iter(self.contents.configs))
        if value != "y":
            self.say("role", f"CONFIG_IP_VS is {value}, and no module ip_vs is in it", where, _BOOT)
            return None if value == "m" else False
        names = [(path, names) for path, names in self.contents.mapped.items() if any("toa" not in n for n in names)]
        if names:
            self.say("role", f"IPVS is built in, with {names[0][1][0]}: a director", names[0][0], _BOOT)
            self.interface = Interface.SOCKOPT
            self.options.append(Option(WRITTEN, (), "IPVS is inside the compressed boot image, which is not unpacked"))
            return True
        self.say("role", "IPVS is built in; whether with FULLNAT is not known", where, _BOOT)
        return None

    def _server(self) -> bool | None:
        """Return whether the kernel, or its modules, read TOA."""
        value = (self.contents.config or {}).get("CONFIG_TOA", "n")
        where = next(iter(self.contents.configs), "")
        if value != "n":
            self.say("role", f"CONFIG_TOA is {value}, which only the TOA patch brings: a real server", where, _BOOT)
        for facts in self.toa:
            text = f"reads TOA ({facts.toa}): a real server" if facts.toa else "no TOA in it, whatever its name says"
            self.say("role", text, facts.path, _MODULES)
        found = [facts for facts in self.toa if facts.toa]
        if found:
            reads = [self._option(facts, READ, facts.option) for facts in found]
            self.options.extend(dict.fromkeys(reads))
            return True
        unread = self.contents.unread_toa
        if value == "y":
            self.options.append(Option(READ, (), "TOA is inside the compressed boot image, which is not unpacked"))
            return True
        if value == "m" and self.kind is Kind.KERNEL and (self.depth is Depth.MODULES or not unread):
            self.contradict("the configuration has CONFIG_TOA=m, and no module of it reads TOA")
            return None
        if value == "m":
            self.options.append(Option(READ, (), "the module toa was not read"))
            return True
        if unread:
            reason = "was not read" if self.depth < Depth.MODULES else "is no file that can be read"
            self.say("role", f"a module called toa is listed, and {reason}", unread[0], _HEADER)
            return None
        if self.contents.config is None and self.kind is not Kind.MODULES:
            return None  # it may be built in
        self.say(
            "role",
            f"no TOA: no module called toa{', and CONFIG_TOA is not set' * bool(where)}",
            where or self.where,
            _HEADER,
        )
        return False

    def _option(self, facts: ModuleFacts, use: str, reading: OptionReading) -> Option:
        if len(reading.numbers) == 1:
            how = f"machine code of {', '.join(reading.functions)}"
            if facts.interface is Interface.NETLINK:
                how += "; net.ipv4.vs.fullnat_toa_option changes it"
            self.say("option", f"{reading.numbers[0]}, {use}", facts.path, _CODE)
            return Option(use, reading.numbers, how)
        found = f"several numbers, {', '.join(map(str, reading.numbers))}," if reading.numbers else "no number"
        how = f"{found} in the code of {facts.path}"
        if facts.foreign:
            how = f"the code of {facts.path} is for another machine than x86-64"
        self.say("option", f"unknown: {how}", facts.path, _CODE)
        return Option(use, (), how)

    def _check_kernel(self) -> None:
        """Compare the releases that image and modules state with those of their paths."""
        if len(self.contents.kernels) > 1:
            self.contradict(f"files of several kernels: {self.kernel}")
        for path, banner in self.contents.banners.items():
            stated = banner.split(" ")[0]
            if not stated and self.contents.arch not in _X86:
                self.say("kernel", f"an image for {self.contents.arch}, whose version is not read", path, _BOOT)
            elif not stated:
                self.contradict(f"{path} is no x86 boot image")
            if not stated:
                continue
            self.say("kernel", banner, path, _BOOT)
            if stated not in path:
                self.contradict(f"{path} is the kernel {stated}")
        for path, facts in self.contents.modules.items():
            if facts.kernel not in self.contents.kernels:
                self.contradict(f"{path} is for the kernel {facts.kernel or 'of no name'}")
        self._check_configs()

    def _check_configs(self) -> None:
        """Compare the configurations with each other, and with the modules."""
        (first, values), *others = self.contents.configs.items() or [("", {})]
        for path, other in others:
            differing = sorted(name for name in values.keys() | other.keys() if values.get(name) != other.get(name))
            if differing:
                self.contradict(f"{first} and {path} differ in {', '.join(differing[:3])}")
        if values.get("CONFIG_IP_VS") == "y" and (modules := self.contents.listed_modules("ip_vs")):
            self.contradict(f"{first} has IPVS built in, and there is {modules[0]}")

    def _tab_bits(self) -> int | None:
        for facts in self.ipvs:
            if facts.tab_bits is not None:
                self.say("TAB_BITS", f"{facts.tab_bits}, of the parameter conn_tab_bits", facts.path, _MODULES)
                return facts.tab_bits
        value = (self.contents.config or {}).get(_TAB_BITS, "")
        if not value:
            return None
        if not value.isascii() or not value.isdigit() or len(value) > 2 or int(value) not in TAB_BITS_RANGE:
            least, most = TAB_BITS_RANGE[0], TAB_BITS_RANGE[-1]
            self.contradict(f"its configuration has {_TAB_BITS}={value[:40]}; expected {least} to {most}")
            return None
        self.say("TAB_BITS", f"{_TAB_BITS} is {value}", next(iter(self.contents.configs)), _BOOT)
        return int(value)

    def _judge_tools(self) -> None:
        for path, tool in self.contents.tools.items():
            with_fullnat = tool.interface is not Interface.NONE
            text = f"{tool.name} speaks FULLNAT by {tool.interface}" if with_fullnat else f"{tool.name} without FULLNAT"
            self.say("role", text, path, "program's content")
            if with_fullnat:
                self.interface = tool.interface
        self.director, self.server = self.interface is not Interface.NONE, False

    def _judge_reader(self) -> None:
        path, reader = next(iter(self.contents.readers.items()))
        self.say("role", "BPF programs that read TOA: a real server, on a stock kernel", path, "program's content")
        stated: tuple[int, ...] = () if reader.option is None else (reader.option,)
        made_for = reader.option if stated else "a number that they do not state"
        self.say("option", f"the programs are made for {made_for}", path, "BPF object")
        self.director, self.server = False, True
        words = self.contents.options
        numbers, how = stated, f"BPF object in {path}"
        if words:
            self.say("option", f"the setting is {' '.join(words)}", "/etc/lvs-toa.conf", "configuration")
            plain = all(word.isascii() and word.isdigit() and int(word) < 256 for word in words)
            numbers = tuple(map(int, words)) if plain else ()
            how = "/etc/lvs-toa.conf, which an administrator may change"
        self.options.append(Option(READ, numbers, how))

    def contradict(self, what: str) -> None:
        """Add a contradiction."""
        why = "its parts were not built together, or somebody changed it"
        self.problems.append(Problem(f"{self.where}: contradicts itself: {what}", why, ""))
