"""Play a plan of the lab's guests for a measurement, from what `build-all lts61` published."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, nothing needs to be installed

from pipeline.commands.lab import LabCommand
from pipeline.config import line_loader
from pipeline.config.context import RunContext
from pipeline.config.line_model import LabScenario
from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.lab import runner
from pipeline.lab.scenario import ScenarioPlan

ROLES = {"director": "director", "server": "realserver", "client": "stock"}


def play(plan: ScenarioPlan) -> None:
    """Play a plan with the roles of lts61; the command line names the artifacts. Ends the process where that fails."""
    artifacts, *options = sys.argv[1:]
    given = {"kernel_config": options[1]} if options[:1] == ["--kernel-config"] else {}
    settings = load({"artifacts": artifacts, "quiet": True, **given}, {})
    command = LabCommand(line_loader.load("lts61"), RunContext(settings, Console(quiet=True)))
    played = runner.run_plan(command.environment(), plan, LabScenario.model_validate(ROLES))
    if played.state != "passed":
        sys.exit(f"error: {played.why}")
