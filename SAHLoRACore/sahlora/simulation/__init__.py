"""Simulated hemorrhage with exact truth, in simulated heads and in real head CT."""
