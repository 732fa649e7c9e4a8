"""Refuse an unknown name, and suggest the known one that was meant."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.errors import UsageError


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that `name` is probably a typing error of; empty where none is near."""
    import difflib  # only where something is refused

    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean NAME?`, for the end of an error's first line; empty where no known name is near."""
    meant = nearest(name, known)
    return f"; did you mean {meant}?" if meant else ""


def unknown(kind: str, names: str | Iterable[str], known: Iterable[str], *, hint: str, where: str = "") -> UsageError:
    """Return the refusal of unknown `names` of a `kind`, such as a line's or a step's."""
    refused = [names] if isinstance(names, str) else list(names)
    possible = list(known)
    meant = dict.fromkeys(filter(None, (nearest(name, possible) for name in refused)))
    what = f"{kind} {', '.join(map(repr, refused))}: not found"
    suggested = f"; did you mean {', '.join(meant)}?" if meant else ""
    return UsageError(what + suggested, where=where, why=f"known: {', '.join(possible) or 'none'}", hint=hint)
