"""Count the objects that a kernel tree compiles under a configuration, by its own Makefiles.

Follows the lists of Documentation/kbuild/makefiles.rst: `obj-y`, `obj-m`, `lib-y`, composite objects, and directories.
For forecasts: every variable but configuration symbols and the architecture counts as empty, and so does what functions
of make return.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

# Lists of the top Makefile and of the architecture's; later trees have them in the file Kbuild.
_ROOT_LISTS = ("head-y", "init-y", "core-y", "core-m", "drivers-y", "drivers-m", "net-y", "net-m", "libs-y", "virt-y")
_LISTS = ("obj-y", "obj-m", "lib-y", "lib-m")
_MAX_DIRECTORIES = 20_000  # Linux 6.1 has 5,600
_MAX_PATH = 200  # characters
_SYMBOL = re.compile(r"\$[({]CONFIG_(\w+)[)}]")
_AS_BUILT_IN = re.compile(r"\$\(subst m,y,\$\(CONFIG_(\w+)\)\)")
_UNKNOWN = re.compile(r"\$[({][^(){}]*[)}]")
_ASSIGNMENT = re.compile(r"([\w./-]+)\s*(?:\+|:|::|\?)?=(.*)")
_CONDITION = re.compile(r"if(n?)(def|eq)\b\s*(.*)")
_PAIR = re.compile(r"\(\s*([^,]*?)\s*,\s*(.*?)\s*\)")


def count_objects(read: Callable[[str], str], configuration: Mapping[str, str], architecture: str = "x86") -> int:
    """Return the number of objects. `read` returns the text of a file by its path in the tree, empty for none.

    `configuration` maps symbols without `CONFIG_` to `y`, `m` or another value.
    """
    tree = _Tree(read, {**configuration, "": ""}, architecture)
    root = [row for path in ("Makefile", f"arch/{architecture}/Makefile") for row in tree.lists(path)]
    directories = [word for name, words in root if name in _ROOT_LISTS for word in words if word.endswith("/")]
    return sum(tree.objects(directory) for directory in ["", *directories])


@dataclass
class _Tree:
    read: Callable[[str], str]
    configuration: Mapping[str, str]
    architecture: str
    seen: set[str] = field(default_factory=set)

    def objects(self, directory: str) -> int:
        """Return the number of objects of a directory and those below; each directory counts once."""
        count, pending = 0, [directory]
        while pending and len(self.seen) < _MAX_DIRECTORIES:
            here = pending.pop()
            if here in self.seen or len(here) > _MAX_PATH:
                continue
            self.seen.add(here)
            files = ("Kbuild",) if here == "" else (f"{here}Kbuild", f"{here}Makefile")
            lists = dict(next((found for path in files if (found := list(self.lists(path)))), []))
            names = {word for name in _LISTS for word in lists.get(name, ())}
            pending += [f"{here}{name}" for name in names if name.endswith("/")]
            count += len(_compiled({name for name in names if name.endswith(".o")}, lists))
        return count

    def lists(self, path: str) -> Iterator[tuple[str, list[str]]]:
        """Yield each variable of a Makefile with all its words."""
        lists: dict[str, list[str]] = {}
        skipped: list[bool] = []  # for each open condition, whether its branch is left out
        for line in self.read(path).replace("\\\n", " ").split("\n"):
            text = line.partition("#")[0].strip()
            if condition := _CONDITION.match(text):
                skipped.append(not self._holds(*condition.groups()))
            elif text.startswith("else") and skipped:
                skipped[-1] = not skipped[-1]
            elif text.startswith("endif") and skipped:
                skipped.pop()
            elif not any(skipped) and (found := _ASSIGNMENT.fullmatch(self._expand(text))):
                lists.setdefault(found[1], []).extend(found[2].split())
        yield from lists.items()

    def _expand(self, text: str) -> str:
        text = _AS_BUILT_IN.sub(lambda found: "y" if self.configuration.get(found[1]) in ("y", "m") else "", text)
        text = _SYMBOL.sub(lambda found: self.configuration.get(found[1], ""), text)
        text = text.replace("$(SRCARCH)", self.architecture).replace("$(ARCH)", self.architecture)
        return _UNKNOWN.sub("", text.replace("$(BITS)", "64"))

    def _holds(self, negated: str, kind: str, operands: str) -> bool:
        if kind == "def":
            return (self.configuration.get(operands.removeprefix("CONFIG_"), "") != "") != bool(negated)
        pair = _PAIR.fullmatch(self._expand(operands))
        return pair is None or (pair[1] == pair[2]) != bool(negated)


def _compiled(objects: set[str], lists: Mapping[str, list[str]]) -> set[str]:
    """Replace each composite object by its parts."""
    compiled = set[str]()
    for name in objects:
        stem = name.removesuffix(".o")
        parts = {part for kind in ("y", "objs", "m") for part in lists.get(f"{stem}-{kind}", ()) if part[-2:] == ".o"}
        compiled |= parts or {name}
    return compiled
