"""Append signatures to kernel modules, and take them off, as the kernel and modinfo read them.

A signed module is the module, a PKCS#7 message over it, an information block about that message, and a marker
(`include/linux/module_signature.h`). Must not know who signs.
"""

from __future__ import annotations

import struct

from pipeline.errors import Refused

MARKER = b"~Module signature appended~\n"
# struct module_signature: algo, hash, id_type, signer_len, key_id_len, __pad[3], sig_len. Of PKCS#7 all but the type
# and the length are 0: mod_check_sig in kernel/module_signature.c.
_BLOCK = struct.Struct(">8sI")
_PKCS7 = b"\0\0\2\0\0\0\0\0"


def append(module: bytes, signature: bytes, name: str) -> bytes:
    """Return the signed module; `name` is the module in errors. Raises `Refused` for one that is signed already."""
    if module.endswith(MARKER):
        raise _refused(name, "signed already; expected a module without a signature")
    return module + signature + _BLOCK.pack(_PKCS7, len(signature)) + MARKER


def split(signed: bytes, name: str) -> tuple[bytes, bytes]:
    """Return the module and its signature. Raises `Refused` unless there is exactly one, which is whole."""
    if not signed.endswith(MARKER):
        raise _refused(name, "not signed; expected a signature at its end")
    content = signed[: -len(MARKER)]
    kind, length = _BLOCK.unpack(content[-_BLOCK.size :]) if len(content) > _BLOCK.size else (b"", 0)
    start = len(content) - _BLOCK.size - length
    if kind != _PKCS7 or not length or start <= 0:
        raise _refused(name, "damaged signature; expected a PKCS#7 message and its length at the end of the module")
    module, signature = content[:start], content[start : -_BLOCK.size]
    if module.endswith(MARKER):
        raise _refused(name, "signed twice; expected one signature")
    return module, signature


def _refused(name: str, problem: str) -> Refused:
    return Refused(f"{name}: {problem}", why="a kernel that checks modules would not load it")
