"""Reads mutated DICOM series and labels in this process and prints what came of each, one JSON line a file.

    python dicom_mutants.py FOLDER KINDS FIRST COUNT

FOLDER holds the sound originals; KINDS are of ``series``, ``seg``, ``zip``, ``label``, joined by commas. The
number of a mutant is its seed. Seconds are of the processor. Memory is limited before anything is read.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sahlora.imaging.volume import Volume

NAMES = {"series": "ct/002.dcm", "seg": "seg.dcm", "zip": "scan.zip", "label": "label.seg.nrrd"}
MEMORY_BYTES = 3 * 2**30  # of addresses: the libraries alone reserve more than one
TOKENS = (
    b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x00\x00\x00\x80", b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0",
    b"SQ", b"UN", b"OB", b"1e400", b"nan", b"-1", b"9999999999", b"\\", b"1.2.840.10008.1.2.1.99",
    b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.2", b"ISO 2022 IR 87",
)  # fmt: skip


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, insert, delete, repeat or cut; mostly in the header, where the meaning is."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        reach = len(data) if chance.random() < 0.2 else min(len(data), 1500)
        place = chance.randrange(max(1, reach))
        match chance.randrange(6):
            case 0:
                data[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                token = chance.choice(TOKENS)
                data[place : place + len(token)] = token
            case 2:
                data[place:place] = chance.choice(TOKENS)
            case 3:
                del data[place : place + chance.choice((1, 2, 8, 100))]
            case 4:
                data[place:place] = data[place : place + chance.choice((8, 100, 1000))]
            case 5 if chance.random() < 0.3:
                del data[place:]
    return bytes(data)


def main(folder: Path, kinds: list[str], first: int, count: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    from sahlora.imaging.volume import read_volume

    volume = read_volume(folder / "ct")
    for kind in kinds:
        target = folder / NAMES[kind]
        sound = target.read_bytes()
        for seed in range(first, first + count):
            say(kind, seed, outcome="began")
            target.write_bytes(mutated(sound, random.Random(f"{kind} {seed}")))
            began = time.process_time()
            outcome = read(target, kind, volume)
            seconds = round(time.process_time() - began, 3)
            say(kind, seed, outcome=outcome, seconds=seconds, peak_mb=peak_mb())
        target.write_bytes(sound)


def peak_mb() -> int:
    """Return the most memory this process had: getrusage also counts what its parent had before the start."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def read(target: Path, kind: str, volume: Volume) -> str:
    """Read a mutant; return ``read``, the code of the product's own error, or what else was raised."""
    from sahlora.errors import SAHLoRAError
    from sahlora.imaging.labels import read_label
    from sahlora.imaging.volume import read_volume

    try:
        if kind in ("series", "zip"):
            read_volume(target.parent if kind == "series" else target)
        else:
            read_label(target, volume)
    except SAHLoRAError as error:
        return error.code if error.hint else f"{error.code} WITHOUT A WAY OUT"
    except BaseException as error:
        return f"TRACEBACK {error!r}"
    return "read"


def say(kind: str, seed: int, **values: object) -> None:
    print(json.dumps({"kind": kind, "seed": seed, **values}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]), int(sys.argv[4]))
