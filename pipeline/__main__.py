"""Run the program as `python -m pipeline`, which `./inv` does."""

from pipeline.cli.app import main

main()
