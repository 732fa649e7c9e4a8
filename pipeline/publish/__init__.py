"""Sign RPMs, check what old readers can take, and publish repository snapshots."""
