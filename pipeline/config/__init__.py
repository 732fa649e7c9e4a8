"""Load settings and line files: typed, checked whole, every mistake reported at once."""
