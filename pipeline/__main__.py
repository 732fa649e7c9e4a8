"""`python -m pipeline`: what `./inv` runs."""

from pipeline.cli import main

main()
