"""`python -m pipeline`: what `./inv` runs."""

from pipeline.cli.app import main

main()
