"""Read patches strictly, prove their role by content, apply them and prove the effect."""
