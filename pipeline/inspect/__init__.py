"""Read what is inside a built package or kernel."""
