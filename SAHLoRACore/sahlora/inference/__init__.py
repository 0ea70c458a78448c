"""Multi-view inference over a volume, and the ranking of scans by it."""
