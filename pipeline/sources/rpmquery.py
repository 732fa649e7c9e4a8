"""What rpm says of a package file. Proves nothing: digests and signatures are `openpgp`'s."""

from __future__ import annotations

from pathlib import Path

from pipeline import process
from pipeline.errors import Refused
from pipeline.sources import openpgp


def ask(rpm: Path, *how: str) -> str:
    """What `rpm -qp` prints of a package, which may be unsigned, with the options `how`.

    Neither a person's macros nor an rpm database have a say. Raises `Refused` when it is no RPM.
    """
    with openpgp.private_home() as home:
        argv = ["rpm", "--dbpath", str(home / "rpmdb"), "--nosignature", "-qp", *how, str(rpm)]
        try:
            return process.run(argv, env=process.clean_environment(HOME=str(home))).text
        except process.ProgramFailed as error:
            raise Refused("no RPM header could be read", where=str(rpm), why=str(error)) from None
