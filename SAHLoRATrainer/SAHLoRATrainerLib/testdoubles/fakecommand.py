"""Stands in for the package ``sahlora`` in tests that run without torch: same command line, files and events.

    python fakecommand.py finetune CASES -o ADAPTER --run FOLDER --epochs 5 --progress json ...

Figures are made up. The environment variable SAHLORA_FAKE_EPOCH_S is the time an epoch takes, and
SAHLORA_FAKE_FULL the epoch at which the disk is full.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

METHODS = {"cp-lora": 988, "lora-c": 2784, "conv-lora": 8352}  # parameters each rank adds


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description="Stand in for sahlora.")
    parser.add_argument("command", choices=("finetune", "evaluate", "cases", "adapters"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--views", default="axial")
    parser.add_argument("--cancel-file", type=Path)
    parser.add_argument("--parent-pid", type=int)
    args, _others = parser.parse_known_args()
    emit("stage", stage="checking")
    commands = {"finetune": finetune, "evaluate": evaluate, "cases": check, "adapters": count}
    return commands[args.command](args)


def emit(event: str, **values: Any) -> None:
    """Print one event."""
    print(json.dumps({"event": event, "version": 1, **values}), flush=True)


def read_cases(path: str) -> list[dict[str, str]]:
    """Read the list of cases."""
    with Path(path).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def finetune(args: argparse.Namespace) -> int:
    """Go on from the metrics in the run's folder, and write them after each epoch."""
    pause = float(os.environ.get("SAHLORA_FAKE_EPOCH_S", "0.02"))
    full = int(os.environ.get("SAHLORA_FAKE_FULL", "0"))
    for case in read_cases(args.rest[0]):
        for name in ("image", "label"):
            if not Path(case[name]).exists():
                emit(
                    "error", code="missing-file", message=f"The {name} does not exist: {case[name]}.", hint=""
                )
                return 3
    for view in args.views.split(","):
        folder = args.run / view
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.json").write_text(json.dumps({"epochs": args.epochs}))
        metrics = folder / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        emit("stage", stage=f"training {view}")
        for epoch in range(len(lines) + 1, args.epochs + 1):
            if stopped(args, pause):
                emit("error", code="cancelled", message="Canceled.", hint="")
                return 130
            if epoch == full:
                emit(
                    "error",
                    code="disk-full",
                    message="The disk is full.",
                    hint="Free some space and run again.",
                )
                return 4
            most = 0.65 + 0.005 * args.rank
            line = {
                "epoch": epoch,
                "loss": 1.1 - most + 1 / epoch,
                "held_out_dice": most - 0.6 * math.exp(-epoch / 4),
            }
            lines.append(json.dumps(line))
            metrics.write_text("\n".join(lines) + "\n")
            emit("progress", stage=f"training {view}", fraction=epoch / args.epochs, eta_s=12.0)
            emit("metric", **line)
    args.output.write_text("made up")
    emit("result", adapter=str(args.output), parameters=1, better=True, message="A made-up gain.")
    return 0


def stopped(args: argparse.Namespace, seconds: float) -> bool:
    """Wait for an epoch; tell whether to stop, since that was asked for or Slicer is gone."""
    end = time.monotonic() + seconds
    while True:
        if is_gone(args.parent_pid) or args.cancel_file.exists():
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(min(0.02, seconds))


def is_gone(pid: int | None) -> bool:
    """Tell whether a process does not exist; Slicer is no parent of ours, but of our launcher."""
    if pid is None or os.name != "posix":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def evaluate(args: argparse.Namespace) -> int:
    """Write made-up results of the held-out cases, better with the adapter."""
    held_out = [case["case"] for case in read_cases(args.rest[0]) if case["held_out"] == "yes"]
    models = []
    for gain in (0.08, 0.0):
        cases = [
            {
                "case": name,
                "annotated_ml": 12.0 + 30 * i,
                "dice": 0.5 + 0.05 * i + gain,
                "predicted_ml": 10.0 + 29 * i,
            }
            for i, name in enumerate(held_out)
        ]
        mean = sum(case["dice"] for case in cases) / len(cases)
        strata = {"up to 25 mL": {"measures": {"dice": {"n": len(cases), "mean": mean}}}}
        models.append({"cases": cases, "strata": strata})
    args.output.mkdir(parents=True, exist_ok=True)
    test = {"n": len(held_out), "p_value": 0.03 if len(held_out) > 5 else 1.0}
    record = {"models": models, "comparison": {"dice": test}, "failures": []}
    (args.output / "evaluation.json").write_text(json.dumps(record))
    emit("result", folder=str(args.output))
    return 0


def check(args: argparse.Namespace) -> int:
    """Find nothing wrong, but a doubt about every second case."""
    doubt = {"severity": "warning", "code": "made-up", "message": "It looks made up.", "hint": "Look at it."}
    cases = [
        {"case": case["case"], "annotated_ml": 20.5 + i, "findings": [doubt] if i % 2 else []}
        for i, case in enumerate(read_cases(args.rest[1]))
    ]
    emit("result", cases=cases)
    return 0


def count(_args: argparse.Namespace) -> int:
    """Count as for the shipped model, decoding scope."""
    counts = {name: {"parameters": 4 * each, "each_rank": each} for name, each in METHODS.items()}
    emit("result", base=399969, rank=4, scopes={"decoding": counts})
    return 0


if __name__ == "__main__":
    sys.exit(main())
