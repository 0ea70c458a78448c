"""Measure what the Segmenter's panel does in Slicer's own process: export, import, another threshold.

    python Testing/benchmarks/bench_segmenter.py --output Docs/evidence/benchmarks/segmenter.json

Runs in the harness (Testing/harness.md): MRML and segmentations are Slicer's own. What is promised: another
threshold within 0.3 s for 512 x 512 x 30 and 1.5 s for 300 slices; export and import within 2 s each.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from in_slicer import run, timed

THRESHOLDS = (0.2, 0.35, 0.5, 0.65, 0.8)
SLICES = {30: 5.0, 300: 0.5}  # number: mm
PROMISED_S = {30: 0.3, 300: 1.5}


def main() -> int:
    """Measure and print a table."""
    return run(__doc__ or "", lambda slicer: [measure(slicer, count, mm) for count, mm in SLICES.items()])


def measure(slicer: Any, count: int, mm: float) -> dict[str, Any]:
    """Measure one size of CT."""
    from SAHLoRASegmenterLib.results import showIn3D
    from SAHLoRASegmenterLib.threshold import LiveThreshold

    from SAHLoRACoreLib.scene import exportVolume, importMap, importSegmentation

    slicer.mrmlScene.Clear(0)
    hu, probability = made_up_head(count)
    volume = add_volume(slicer, hu, mm)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ct.nrrd"
        exported_in, exported = timed(lambda: exportVolume(volume, path))
        label, values = write_results(path, probability, Path(folder))
        segmentation_in, node = timed(lambda: importSegmentation(label, exported))
        map_in, map_node = timed(lambda: importMap(values, exported, "probability"))
    result = remembered(slicer, node, volume, map_node)
    prepared_in, live = timed(lambda: LiveThreshold(result))
    moves = [timed(lambda threshold=threshold: live.apply(threshold))[0] for threshold in THRESHOLDS]
    released_in, _none = timed(lambda: live.finish(0.5))
    surface_in, _none = timed(lambda: showIn3D(result, True))
    return {
        "slices": count,
        "outlined_ml": round(float((probability >= 0.5).sum() * 0.45 * 0.45 * mm / 1000), 1),
        "export": exported_in.rounded(),
        "import": (segmentation_in + map_in).rounded(),
        "first_threshold": (prepared_in + moves[0]).rounded(),
        "another_threshold_longest": max(moves).rounded(),
        "release_of_the_slider": released_in.rounded(),
        "surface": surface_in.rounded(),
        "promised_s": {"export": 2.0, "import": 2.0, "another_threshold": PROMISED_S[count]},
    }


def made_up_head(count: int) -> tuple[Any, Any]:
    """Return HU int16 and probability float32 (Z, Y, X) of a ball of brain with blood in scattered pieces."""
    import numpy as np
    from scipy import ndimage

    z, y, x = np.ogrid[-1 : 1 : count * 1j, -1:1:512j, -1:1:512j]
    radius = np.sqrt(z**2 + y**2 + x**2)
    hu = np.full((count, 512, 512), -1000, np.int16)
    hu[radius < 0.9] = 1000
    hu[radius < 0.82] = 30
    noise = np.random.default_rng(0).normal(size=(count // 5, 32, 32)).astype(np.float32)
    smooth = ndimage.zoom(noise, (5, 16, 16), order=1)[:count]
    probability = 1 / (1 + np.exp(-4 * (smooth - 1.2)))
    probability[radius >= 0.7] = 0
    hu[probability > 0.5] = 70
    return hu, np.floor(probability.astype(np.float32) * 1024) / np.float32(1024)


def add_volume(slicer: Any, hu: Any, mm: float) -> Any:
    """Add an oblique CT to the scene."""
    import numpy as np

    turn = np.array([[1, 0, 0], [0, 0.9781, -0.2079], [0, 0.2079, 0.9781]])
    grid = np.eye(4)
    grid[:3, :3] = turn @ np.diag([-0.45, -0.45, mm])
    return slicer.util.addVolumeFromArray(hu, ijkToRAS=grid, name="CT")


def write_results(ct: Path, probability: Any, folder: Path) -> tuple[Path, Path]:
    """Write what the command would: segmentation and probability map, by its own writers."""
    import SimpleITK as sitk

    from sahlora.imaging.terminology import Code, Segment
    from sahlora.imaging.writers import write_label, write_probability

    grid = sitk.ReadImage(str(ct))
    image = sitk.GetImageFromArray(probability)
    image.CopyInformation(grid)
    code = Code("50960005", "SCT", "Hemorrhage")
    segment = Segment("Hemorrhage", (188, 65, 28), code, code, None)
    write_label(image >= 0.5, folder / "label.seg.nrrd", segment)
    write_probability(image, folder / "probability.nrrd")
    return folder / "label.seg.nrrd", folder / "probability.nrrd"


def remembered(slicer: Any, node: Any, volume: Any, map_node: Any) -> Any:
    """Return the result as the panel keeps it, with tables and chart."""
    from SAHLoRASegmenterLib.results import Result
    from SAHLoRASegmenterLib.tables import addChart, addTable

    measurements, areas = addTable("measurements", volume), addTable("areas", volume)
    result = Result(node)
    result.remember(
        node.GetSegmentation().GetNthSegmentID(0), 0.5, 0.0, None, volume=volume, probability=map_node,
        measurements=measurements, areas=areas, chart=addChart(areas, "areas"),
    )  # fmt: skip
    return result


if __name__ == "__main__":
    sys.exit(main())
