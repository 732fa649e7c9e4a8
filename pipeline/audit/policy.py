"""Read an organisation's audit policy: which keys, lines, roles, sources and patches it accepts.

A policy is a TOML file that a person keeps; docs/audit.md describes every key. What it does not say is not restricted,
and the audit says so.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError

from pipeline.config.line_model import RoleName
from pipeline.config.line_values import Fingerprint, Flag, Model, Name, OptionNumber, Sha256, Table
from pipeline.core.fs import read_limited
from pipeline.errors import FileProblems, Problem, UsageError

MOST = 1 << 20  # bytes of a policy
CompilerCache = Literal["none", "own", "remote"]
_HINT = "docs/audit.md describes every key"


class Keys(Model):
    """The accepted keys: OpenPGP fingerprints of release keys, and ids of attestation keys.

    An id is the SHA-256 of the public key in DER. `development` accepts keys that this tool made for itself.
    """

    release: tuple[Fingerprint, ...] = ()
    attestation: tuple[Sha256, ...] = ()
    development: Flag = False


class Freshness(Model):
    """The least sequence number, and the most days since the snapshot was issued as the latest."""

    least_sequence: Annotated[int, Field(ge=0, strict=True)] = 0
    most_days: Annotated[int, Field(gt=0, strict=True)] | None = None


class LinePolicy(Model):
    """The accepted parts of one line. `sources` has digests by file name, `patches` those of each series in order."""

    roles: tuple[RoleName, ...] | None = None
    option_number: OptionNumber | None = None
    sources: Mapping[str, Sha256] | None = None
    patches: Mapping[str, tuple[Sha256, ...]] | None = None


class Policy(Model):
    """A whole policy. `dirty` accepts what was built from a checkout with changes that no commit has.

    `compiler_cache` accepts object files out of no cache, of the build host's own, or of a remote one, too.
    """

    schema_: Annotated[Literal[1], BeforeValidator(lambda v: v if type(v) is int else None)] = Field(alias="schema")
    keys: Keys = Keys()
    freshness: Freshness = Freshness()
    lines: Table[Name, LinePolicy] | None = None
    dirty: Flag = False
    compiler_cache: CompilerCache | None = None


@dataclass(frozen=True)
class PolicyFile:
    """A policy, with the digest and path of its file; both are empty for the default policy."""

    policy: Policy
    path: str = ""
    sha256: str = ""

    @property
    def is_default(self) -> bool:
        """Whether nobody wrote it."""
        return not self.path


def load(path: Path | None) -> PolicyFile:
    """Read the policy `path`; None means the default, which restricts nothing.

    Raises `UsageError` without such a file, `FileProblems` with every mistake.
    """
    if path is None:
        return PolicyFile(Policy(schema=1))
    try:
        data = read_limited(path, MOST)
        raw = tomllib.loads(data.decode())
    except OSError as error:
        what = f"the policy cannot be read: {error.strerror}; expected a TOML file"
        raise UsageError(what, where=str(path), hint=f"`./inv audit SNAPSHOT --write-policy FILE`; {_HINT}") from None
    except (ValueError, RecursionError) as error:
        raise FileProblems(f"{path} is not TOML", [Problem(str(path), 1, str(error))], hint=_HINT) from None
    try:
        policy = Policy.model_validate(raw)
    except ValidationError as error:
        raise FileProblems(f"mistakes in {path}", list(_problems(path, data.decode(), error)), hint=_HINT) from None
    return PolicyFile(policy, str(path), hashlib.sha256(data).hexdigest())


def _problems(path: Path, text: str, error: ValidationError) -> Iterator[Problem]:
    from pipeline.formats import toml_lines

    for item in error.errors(include_url=False):
        place: Sequence[str | int] = item["loc"]
        what = f"{'.'.join(map(str, place)) or 'the file'}: {item['msg']}"
        yield Problem(str(path), toml_lines.line_of(text, place), what)


def text_of(release: str, attestation: str, line: str, content: LinePolicy, sequence: int, *, development: bool) -> str:
    """Return the text of a policy that accepts one snapshot's keys, line, roles, sources and patches."""
    rows = [
        "# Accepts what one snapshot is. Compare the keys with what their owners told you by another way.",
        "schema = 1",
        "",
        "[keys]",
        f"release = [{json.dumps(release)}]",
        f"attestation = [{json.dumps(attestation)}]",
        *(["development = true  # NOT for production"] if development else []),
        "",
        "[freshness]",
        f"least-sequence = {sequence}",
        "",
        f"[lines.{line}]",
        f"roles = {json.dumps([role.value for role in content.roles or ()])}",
        *([f"option-number = {content.option_number}"] if content.option_number is not None else []),
        "",
        f"[lines.{line}.sources]",
        *(f"{json.dumps(name)} = {json.dumps(digest)}" for name, digest in sorted((content.sources or {}).items())),
        "",
        f"[lines.{line}.patches]",
    ]
    for series, digests in sorted((content.patches or {}).items()):
        rows += [f"{json.dumps(series)} = [", *(f"    {json.dumps(digest)}," for digest in digests), "]"]
    return "\n".join([*rows, ""])
