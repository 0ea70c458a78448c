"""Test the extension in a real 3D Slicer and write one report.

    make slicer-test SLICER=/path/to/Slicer
    python Testing/slicer_app/run.py /path/to/Slicer --output slicer-test

Slicer starts with the three modules, settings of its own and an empty temporary folder, on a virtual display
where there is none (xvfb-run). What happens in it is in walk.py; here it is started, watched and ended: no
process and no file may be left. With ``--install`` the PyTorch extension and the packages are installed into
that Slicer before; without, they must be there. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("SAHLoRACore", "SAHLoRASegmenter", "SAHLoRATrainer")
MARK = "SAHLORA_WALK_MARK"  # in the environment of every process that the walk starts
QUIT_WITHIN_S = 15.0


def main() -> int:
    """Run the walk and return 0 if everything was as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("slicer", type=Path, help="Slicer's launcher: Slicer, Slicer.exe")
    parser.add_argument("--output", type=Path, default=Path("slicer-test"), help="folder for the report")
    parser.add_argument("--runs", type=int, default=10, help="repetitions to see whether memory grows")
    parser.add_argument("--timeout", type=float, default=7200.0, help="seconds")
    parser.add_argument("--install", action="store_true", help="install the PyTorch extension before")
    args = parser.parse_args()
    output = args.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    if args.install:
        install(args.slicer, args.timeout)
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="walk ") as temporary:
        environment = {
            **os.environ,
            MARK: mark,
            "SAHLORA_WALK": str(output),
            "SAHLORA_WALK_RUNS": str(args.runs),
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temporary),
        }
        with (output / "slicer.log").open("wb") as log:
            walk = Path(__file__).with_name("walk.py")
            process = subprocess.Popen(
                command(args.slicer, walk, "--disable-settings"),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(args.timeout)
            except subprocess.TimeoutExpired:
                end(process)
                status = None
        ended = time.time()
        left = {
            "status": status,
            "seconds to quit": quit_time(output, ended),
            "processes": left_processes(mark),
            "files": sorted(path.name for path in Path(temporary).glob("SAHLoRA-*")),
        }
    steps = read_steps(output)
    (output / "report.md").write_text(report(args.slicer, steps, left), encoding="utf-8")
    print((output / "report.md").read_text(encoding="utf-8"))
    return 0 if passed(steps, left) else 1


def install(slicer: Path, timeout: float) -> None:
    """Install extension and packages; Slicer is started anew after the extension came."""
    line = command(slicer, Path(__file__).with_name("install.py"))
    for _start in range(2):
        status = subprocess.run(line, timeout=timeout, check=False).returncode
        if status == 0:
            return
    raise SystemExit(f"The packages could not be installed (Slicer ended with {status}).")


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill Slicer, which its launcher started, and all it started."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], check=False)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def command(slicer: Path, script: Path, *options: str) -> list[str]:
    """Return the command line that runs a script in Slicer with the three modules."""
    paths = [str(ROOT / name) for name in MODULES]
    line = [str(slicer), "--no-splash", "--ignore-slicerrc", *options]
    line += ["--additional-module-paths", *paths, "--python-script", str(script)]
    headless = sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if not headless:
        return line
    if shutil.which("xvfb-run") is None:
        raise SystemExit("There is no display. Install Xvfb (package xvfb), or set DISPLAY.")
    return ["xvfb-run", "--auto-servernum", "--server-args=-screen 0 1680x1050x24", *line]


def read_steps(output: Path) -> list[dict[str, Any]]:
    """Return what the walk noted; nothing if it did not even begin."""
    try:
        return list(json.loads((output / "report.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []


def quit_time(output: Path, ended: float) -> float | None:
    """Return the seconds from Slicer's wish to end, while a segmentation ran, to its end."""
    try:
        return round(ended - float((output / "quit").read_text()), 1)
    except (OSError, ValueError):
        return None


def left_processes(mark: str) -> list[str] | None:
    """Return the processes of the walk that still run; None where the system does not tell."""
    if not Path("/proc/self/environ").exists():
        return None
    time.sleep(3)  # what was told to end may take a moment
    left = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                left.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it ended meanwhile, or is somebody else's
    return left


def passed(steps: list[dict[str, Any]], left: dict[str, Any]) -> bool:
    """Tell whether everything was as it should be."""
    clean = not left["processes"] and not left["files"]
    quits = left["seconds to quit"] is not None and left["seconds to quit"] < QUIT_WITHIN_S
    return (
        clean
        and quits
        and left["status"] == 0
        and bool(steps)
        and not any(step["failure"] or step["complaints"] for step in steps)
    )


def report(slicer: Path, steps: list[dict[str, Any]], left: dict[str, Any]) -> str:
    """Return the report, in Markdown."""
    verdict = "passed" if passed(steps, left) else "FAILED"
    lines = [
        f"# SAHLoRA in 3D Slicer: {verdict}",
        "",
        f"{slicer} on {platform.platform()}, {time.strftime('%Y-%m-%d %H:%M')}",
        "",
        "| step | | s | found |",
        "|---|---|---|---|",
    ]
    for step in steps:
        state = "**failed**" if step["failure"] else "ok"
        found = "; ".join(f"{name}: {value}" for name, value in step["found"].items())
        lines.append(f"| {step['name']} | {state} | {step['seconds']} | {one_line(found)} |")
    lines += ["", "| afterwards | |", "|---|---|"]
    lines += [f"| {name} | {one_line(str(value))} |" for name, value in left.items()]
    for step in steps:
        for title, text in (
            ("Failure", step["failure"]),
            ("Error log", "\n".join(step["complaints"])),
        ):
            if text:
                lines += ["", f"## {title}: {step['name']}", "", "```", text.strip(), "```"]
    if not steps:
        lines += ["", "The walk did not begin: slicer.log says why."]
    return "\n".join(lines) + "\n"


def one_line(text: str) -> str:
    """Return a text that fits into a cell of a table."""
    return text.replace("\n", " ").replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
