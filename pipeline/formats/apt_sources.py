"""Write apt's sources in deb822 format with the trusted keys inside, as sources.list(5) describes.

A file of keys would be named by its path, and an entry of one line takes a path with a blank in it for two words. The
keys inside are also readable for an apt in a user namespace that may not search the directories above such a file.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping


def text(kind: str, archives: Mapping[str, str], keyring: bytes) -> str:
    """Return the stanzas of `archives`, addresses by suite, that only keys in the binary `keyring` may sign.

    `kind` is `deb` or `deb-src`. apt reads such keys since 2.3.10.
    """
    begin, end = (f"-----{word} PGP PUBLIC KEY BLOCK-----" for word in ("BEGIN", "END"))
    armored = [begin, ".", *base64.encodebytes(keyring).decode().splitlines(), end]
    signed = "\n".join(f" {line}" for line in armored)
    return "\n".join(
        f"Types: {kind}\nURIs: {url}\nSuites: {suite}\nComponents: main\nSigned-By:\n{signed}\n"
        for suite, url in archives.items()
    )
