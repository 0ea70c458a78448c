"""What the benchmarks of the panels share: the harness as Slicer, a clock with two faces, the record.

Told are the time by the clock and the main thread's own processor time: other programs slow down the first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run(description: str, measure: Callable[[Any], list[dict[str, Any]]]) -> int:
    """Start the harness, print what `measure` returns of it, and write that to ``--output``.

    Parameters
    ----------
    description : str
        What the program says of itself, its first line.
    measure : callable
        Gets the module ``slicer``, with SAHLoRA's modules loaded, and returns rows.

    Returns
    -------
    int
        Exit status.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT / "Testing" / "slicer"), str(ROOT / "SAHLoRACore")]
    import harness

    reason = harness.unavailable()
    if reason:
        print(reason, file=sys.stderr)
        return 1
    from harness.application import MODULES, load_module, start

    slicer = start()
    for name in MODULES:
        load_module(name)
    results = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "rows": measure(slicer),
    }
    for row in results["rows"]:
        print(json.dumps(row))
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


@dataclass(frozen=True, order=True)
class Seconds:
    """By the clock, and of the thread's own processor time."""

    elapsed: float
    processor: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.elapsed + other.elapsed, self.processor + other.processor)

    def rounded(self) -> dict[str, float]:
        return {"elapsed_s": round(self.elapsed, 3), "processor_s": round(self.processor, 3)}


def timed(work: Callable[[], Any]) -> tuple[Seconds, Any]:
    """Return how long it took and what came out."""
    started, computed = time.perf_counter(), time.thread_time()
    made = work()
    return Seconds(time.perf_counter() - started, time.thread_time() - computed), made
