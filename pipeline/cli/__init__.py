"""Parse the command line, turn errors into text and exit codes, and generate pages of the docs."""
