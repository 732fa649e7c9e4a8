"""Render the files by which timers and CI services run our verbs every night."""
