"""Run programs, write files, take locks and print: the base of every other package."""
