"""What stands in for the command in tests and self-tests that run without torch."""
