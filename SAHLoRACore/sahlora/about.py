"""What this software is: the one place that states its version and what it is for."""

from __future__ import annotations

__version__ = "0.1.0"
RESEARCH_USE = "For research use only, not for diagnosis"
