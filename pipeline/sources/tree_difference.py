"""Describe the differences of a kernel tree from the pinned one, path by path."""

from __future__ import annotations

from pipeline.config.line_model import SrpmSource
from pipeline.errors import Refused
from pipeline.formats import git_tree

_SHOWN = 40  # differing paths listed in one message


def refusal(source: SrpmSource, tree: str, actual: git_tree.Listing, pristine: git_tree.Listing | None) -> Refused:
    """Return the error for a different tree, with a judgement of each differing path."""
    what = f"the kernel tree in {source.tree.archive} is not the pinned one"
    why = f"wanted git tree {source.tree.git_tree} ({source.tree.entries} entries), had {tree} ({len(actual)} entries)"
    if pristine is None:
        return Refused(what, why=why, hint="name a manifest of the tree in the line file to see which paths differ")
    found = git_tree.compare(pristine, actual)
    count = {kind: sum(difference.kind == kind for difference in found) for kind in ("missing", "extra", "changed")}
    judged = ", ".join(f"{number} {kind}" for kind, number in count.items() if number)
    rows = [f"    {difference.kind:8}{difference.path}" for difference in found[:_SHOWN]]
    if len(found) > _SHOWN:
        rows.append(f"    and {len(found) - _SHOWN} more")
    return Refused(
        "\n".join([f"{what}: {judged}", *rows]),
        why=why,
        hint="if that is what you mean to build from, extend the line in a file of your own (docs/lines.md)",
    )
