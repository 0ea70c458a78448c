"""How well a model segments: measures, statistics, plots, report."""
