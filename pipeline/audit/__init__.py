"""Hold what was made and kept against its records."""
