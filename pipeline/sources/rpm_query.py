"""Query a package file with rpm. Proves nothing: `openpgp` verifies digests and signatures."""

from __future__ import annotations

from pathlib import Path

from pipeline.core import process
from pipeline.errors import Refused
from pipeline.formats import rpm_header, rpm_lead
from pipeline.sources import openpgp

_PATIENCE = 120.0  # seconds; a kernel's header takes one


def tags(rpm: Path) -> str:
    """Return every tag of the header, from `rpm -qp --xml`; the package may be unsigned.

    Neither a person's macros nor an rpm database have a say. Raises `Refused` when it is no RPM.
    """
    rpm_header.read(rpm)  # else there would be no limit to what is printed
    with openpgp.private_home() as home, rpm_lead.opened(rpm) as stream:
        argv = [
            "rpm",
            "--dbpath",
            openpgp.escaped(home / "rpmdb"),
            "--nosignature",
            "--nomanifest",
            "-qp",
            "--xml",
            "-",
        ]
        try:
            env = process.clean_environment(HOME=str(home))
            return process.run(argv, env=env, stdin=stream, timeout=_PATIENCE).text
        except process.ProgramFailed as error:
            raise Refused("no RPM header could be read", where=str(rpm), why=str(error)) from None
