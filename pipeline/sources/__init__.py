"""Where upstream's bytes come from, how they are kept, and why they are trusted."""
