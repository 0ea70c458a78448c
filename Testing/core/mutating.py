"""Reads mutated files in a child process with little memory: each must be read, or refused in words.

A test calls `read_mutated`; the child is this file, run as a script.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SECONDS_A_FILE = 10
MEMORY_BYTES = 2**30
"""Beyond what the imported libraries take."""
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2, 10**30, -(2**63), 1e308, -0.0, 5e-324, 0.1 + 0.2, "", " ", "=1+1", "\0",
    "\ud800", "\u202e", "\u200b", "x" * 70_000, "../../etc/passwd", "é", "NaN", [], {}, [[[[]]]],
    {"a": {"a": {}}}, "axial",
)  # fmt: skip
TOKENS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"'", b",", b";", b"\t", b"\r", b"\n", b"\n\n", b"=1+1",
    b"NaN", b"1e999", b"-1", b"9" * 400, b"{", b"}", b"[", b"]" * 9, b"[" * 5000, b"sep=;\n", b"\\ud800",
    b"/", b"..", b"\x80\x05", b"yes",
)  # fmt: skip


@dataclass
class Report:
    """What became of the files of a child."""

    files: int = 0
    read: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    extra_mib: float = 0.0


def read_mutated(kind: str, source: Path, count: int, seed: int, folder: Path) -> Report:
    """Read `count` mutations of a file in a child process, and return what became of them.

    Parameters
    ----------
    kind : str
        Of `READERS`.
    source : Path
        A good file.
    folder : Path
        For the mutated files; one that made a reader fail stays there.
    """
    call = [sys.executable, __file__, kind, str(source), str(count), str(seed), str(folder)]
    from helpers import environment

    done = subprocess.run(
        call, capture_output=True, text=True, env={**environment(), "OMP_NUM_THREADS": "1"}, timeout=3600
    )
    if done.returncode != 0:
        return Report(failures=[f"the child ended with {done.returncode}: {done.stderr[-2000:]}"])
    return Report(**json.loads(done.stdout.splitlines()[-1]))


# ---------------------------------------------------------------------------------------------- mutations


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Change a few bytes, or cut, repeat, drop or insert a piece; seldom several of these."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        start = draw.randrange(len(changed) + 1)
        start = min(start, draw.randrange(len(changed) + 1)) if draw.random() < 0.5 else start
        stop = min(len(changed), start + draw.choice((1, 1, 2, 8, 64)))
        match draw.randrange(7):
            case 0:
                changed[start:stop] = draw.randbytes(stop - start)
            case 1:
                del changed[start:]
            case 2:
                del changed[start:stop]
            case 3:
                changed[start:start] = changed[start:stop]
            case 4 | 5:
                changed[start:start] = draw.choice(TOKENS)
            case 6:
                changed[start:stop] = draw.choice(TOKENS)
    return bytes(changed)


def odd_json(text: str, draw: random.Random) -> str:
    """Replace, drop or add a value somewhere in JSON."""
    root = [json.loads(text)]
    node: Any = root
    while True:
        keys = list(range(len(node))) if isinstance(node, list) else list(node)
        if not keys:
            break
        key = draw.choice(keys)
        if isinstance(node[key], (dict, list)) and node[key] and draw.random() < 0.8:
            node = node[key]
            continue
        if draw.random() < 0.15:
            del node[key]
        elif isinstance(node, dict) and draw.random() < 0.15:
            node[str(draw.choice(ODD))] = node[key]
        else:
            node[key] = draw.choice(ODD)
        break
    return json.dumps(root[0] if root else None, sort_keys=True)


def mutated_model(content: bytes, draw: random.Random) -> bytes:
    """Change bytes, or put an odd value into header or card of a file that is written well all the same."""
    if draw.random() < 0.5:
        return mutated(content, draw)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if draw.random() < 0.7:
        header["__metadata__"]["sahlora"] = odd_json(header["__metadata__"]["sahlora"], draw)
    else:
        header = json.loads(odd_json(json.dumps(header), draw))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def mutated_json(content: bytes, draw: random.Random) -> bytes:
    return odd_json(content.decode(), draw).encode() if draw.random() < 0.5 else mutated(content, draw)


NUMBERS = (0, 1, -1, 2, 3, 255, 32767, -32768, 2**31 - 1, -(2**31))
FLOATS = (0.0, 1.0, -1.0, 1e-30, 1e30, -1e38, float("inf"), float("nan"), 352.0, 1e-3)
WORDS = (
    b"0", b"-1", b"1", b"3", b"1000000000", b"99999999999999999999", b"1e-30", b"1e30", b"inf", b"nan", b"",
    b"raw", b"gzip", b"bzip2", b"ascii", b"hex", b"True", b"False", b"LOCAL", b"LIST", b"../x.raw",
    b"/etc/passwd", b"none", b"(1,0,0)", b"(", b"short", b"double", b"uchar", b"MET_DOUBLE", b"MET_CHAR",
    b"4", b"\xff", b"9" * 5000,
)  # fmt: skip
HEADER_BYTES = 540


def mutated_nifti(content: bytes, draw: random.Random) -> bytes:
    """Change bytes anywhere, or put odd numbers into the fields of the header."""
    if draw.random() < 0.3:
        return mutated(content, draw)
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        form = draw.choice("hifdq")
        place = draw.randrange(0, min(HEADER_BYTES, len(content)) - 8) // 2 * 2
        value = draw.choice(FLOATS if form in "fd" else NUMBERS)
        if form == "h":
            value = max(-32768, min(32767, value))
        struct.pack_into(draw.choice("<<<>") + form, changed, place, value)
    return bytes(changed)


def mutated_packed(content: bytes, draw: random.Random) -> bytes:
    """Change a gzip file, or what is packed in it, which then is packed anew."""
    if draw.random() < 0.3:
        return mutated(content, draw)
    return gzip.compress(mutated_nifti(gzip.decompress(content), draw), 1)


def mutated_text(content: bytes, draw: random.Random) -> bytes:
    """Change bytes anywhere, or a word of a header of text."""
    if draw.random() < 0.3:
        return mutated(content, draw)
    words = list(re.finditer(rb"[^\s:=]+", content[: draw.choice((400, 800))]))
    word = draw.choice(words)
    return content[: word.start()] + draw.choice(WORDS) + content[word.end() :]


# ------------------------------------------------------------------------------------------------- child


def readers() -> dict[str, tuple[Callable[[Path], object], Callable[[bytes, random.Random], bytes]]]:
    """Return by kind what reads a file, and what mutates one."""
    from sahlora.cases.manifest import Case, list_cases
    from sahlora.imaging.volume import read_volume
    from sahlora.models.adapter_file import AdapterCard, load_adapter
    from sahlora.models.base_model import load_model
    from sahlora.models.card import decode_card

    def slices(path: Path) -> object:
        return Case("a", path, path, slices=path).read_slice_labels(8)

    def card(path: Path) -> object:
        return decode_card(AdapterCard, path.read_bytes().decode("utf-8", "surrogateescape"))

    return {
        "adapter": (load_adapter, mutated_model),
        "base": (load_model, mutated_model),
        "card": (card, mutated_json),
        "table": (list_cases, mutated),
        "list": (list_cases, mutated_json),
        "slices": (slices, mutated),
        "nifti": (read_volume, mutated_nifti),
        "nifti2": (read_volume, mutated_nifti),
        "packed": (read_volume, mutated_packed),
        "nrrd": (read_volume, mutated_text),
        "mha": (read_volume, mutated_text),
    }


def main(kind: str, source: Path, count: int, seed: int, folder: Path) -> Report:
    """Read mutated files one after another; the first ten failures are kept."""
    from sahlora.errors import InputError, UsageError

    read, mutate = readers()[kind]
    content, draw, refused, report = source.read_bytes(), random.Random(seed), Counter[str](), Report()
    read(source)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _too_long)
    path = folder / f"mutated{source.suffix}"
    for number in range(count):
        path.write_bytes(mutate(content, draw))
        begun = time.monotonic()
        signal.alarm(SECONDS_A_FILE)
        try:
            read(path)
            report.read += 1
        except (InputError, UsageError) as error:
            refused[error.code] += 1
            if not error.hint or not error.message.replace("\n", "").isprintable():
                report.failures.append(f"{number}: {error.code} {error.message!r:.300} {error.hint!r}")
        except BaseException:
            report.failures.append(f"{number}: {traceback.format_exc()[-1500:]}")
            path.rename(folder / f"failure-{kind}-{seed}-{number}{source.suffix}")
        signal.alarm(0)
        report.files += 1
        report.slowest_s = max(report.slowest_s, round(time.monotonic() - begun, 3))
        if len(report.failures) >= 10:
            break
    report.extra_mib = round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1)
    report.refused = dict(refused)
    return report


def _too_long(*_: object) -> None:
    raise TimeoutError(f"reading takes longer than {SECONDS_A_FILE} s")


if __name__ == "__main__":
    kind, source, count, seed, folder = sys.argv[1:]
    print(json.dumps(asdict(main(kind, Path(source), int(count), int(seed), Path(folder)))))
