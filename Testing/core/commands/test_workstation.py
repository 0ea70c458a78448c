"""What a workstation in a hospital is like: no network, folders of any name, more cases than memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np

from helpers import environment, random_card, random_network, write_head, write_manifest
from sahlora.models.base_model import save_model
from sahlora.models.card import Preprocessing
from sahlora.training.augmentation import augmentation
from sahlora.training.batches import SliceBatches
from sahlora.training.prefetch import prefetched
from sahlora.training.prepared import PreparedCase

WITHOUT_NETWORK = """
import socket, sys

class Refused(socket.socket):
    def __init__(self, *arguments, **options):
        note(arguments)

def note(what):
    open(sys.argv[1], "a").write(f"{what}\\n")
    raise OSError("There is no network.")

socket.socket = Refused
socket.create_connection = socket.getaddrinfo = lambda *arguments, **options: note(arguments)
from sahlora.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_adapter_is_trained_and_used_without_network_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder, attempts = tmp_path / "患者 データ ü" / ("x" * 100) / ("y" * 100), tmp_path / "attempts.txt"
    folder.mkdir(parents=True)
    write_manifest(folder / "cases.csv", [write_head(folder, case) for case in ("a", "b")])
    save_model(folder / "base.safetensors", random_network(0, 1, 4), random_card(1, 4, spacing=2.0))
    for line in (
        ["finetune", "cases.csv", "-o", "site.safetensors", "--model", "base.safetensors", "--epochs", "1"],
        ["segment", "a-image.nii.gz", "-o", "label.seg.nrrd", "--model", "base.safetensors",
         "--adapter", "site.safetensors", "--page", "report.html"],
    ):  # fmt: skip
        words = [str(folder / word) if "." in word else word for word in line]
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_NETWORK, str(attempts), *words, "--device", "cpu"],
            capture_output=True, text=True, encoding="utf-8", env=environment(), timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    assert not attempts.exists()
    assert (folder / "label.seg.nrrd").is_file() and (folder / "report.html").is_file()


def test_memory_of_training_does_not_grow_with_the_number_of_cases(tmp_path: Path) -> None:
    def case(number: int) -> PreparedCase:
        folder = tmp_path / str(number)
        folder.mkdir()
        np.save(folder / "image.npy", np.full((24, 256, 256), 30, np.int16))
        np.save(folder / "label.npy", np.zeros((24, 256, 256), np.uint8))
        return PreparedCase(str(number), folder, tuple(range(0, 24, 8)), tuple(range(1, 24, 8)))

    def peak(cases: list[PreparedCase]) -> int:
        """Return the most bytes at a time that NumPy and Python held while an epoch was read."""
        batches = SliceBatches(cases, Preprocessing(), 4, None, 4, augmentation("none"), 0)
        tracemalloc.start()
        for _batch in prefetched(batches.epoch(0)):
            pass
        _now, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few, many = [case(number) for number in range(2)], [case(number) for number in range(2, 12)]
    peak(few)  # imports of the first batch
    one_case = few[0].image().nbytes
    assert peak(many) < peak(few) + one_case / 2
    assert peak(many) < 2 * one_case  # of 10 cases
