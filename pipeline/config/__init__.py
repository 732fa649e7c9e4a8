"""Settings and line files: typed, checked whole, every mistake told at once."""
