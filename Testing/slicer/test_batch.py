"""Many scans, one after another: volumes of the scene and folders of files, with failures and a cancel."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import SimpleITK as sitk
from test_childprocess import wait_for


@pytest.fixture
def logic(slicer):
    from SAHLoRASegmenter import SAHLoRASegmenterLogic

    from SAHLoRACoreLib.childprocess import pythonExecutable
    from SAHLoRACoreLib.testdoubles import fakechild

    return SAHLoRASegmenterLogic(command=[pythonExecutable(), fakechild.__file__])


@pytest.fixture
def settings(slicer):
    from SAHLoRASegmenterLib.settings import SegmentSettings

    return SegmentSettings()


def add_ct(slicer, name):
    hu = np.full((4, 20, 20), 30, dtype=np.int16)
    hu[1:3, 5:15, 5:15] = 70
    return slicer.util.addVolumeFromArray(hu, ijkToRAS=np.diag([-1.0, -1.0, 5.0, 1.0]), name=name)


def write_ct(path) -> None:
    image = sitk.GetImageFromArray(np.full((4, 10, 10), 70, np.int16))
    image.SetSpacing((1.0, 1.0, 2.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def run(slicer, batch):
    ended = []
    batch.finished.connect(ended.append)
    batch.start()
    wait_for(slicer, lambda: ended)
    return [(row.case, row.state) for row in batch.rows]


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_volumes_are_segmented_one_after_another_past_a_failure(slicer, logic, settings):
    from SAHLoRASegmenterLib.batch import BatchRun, volumeJobs

    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    batch = BatchRun(volumeJobs(logic, [add_ct(slicer, "A"), empty, add_ct(slicer, "B")], settings))

    assert run(slicer, batch) == [("A", "done"), ("Empty", "failed"), ("B", "done")]
    assert [row.volume_ml for row in batch.rows] == [pytest.approx(1.0), None, pytest.approx(1.0)]
    assert "empty" in batch.rows[1].message
    names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
    assert names == ["A segmentation", "B segmentation"]


def test_folder_of_scans_becomes_a_folder_of_results_and_a_table(slicer, logic, settings, tmp_path):
    from SAHLoRASegmenterLib.batch import BatchRun, folderJobs

    scans, output = tmp_path / "scans é", tmp_path / "results"
    output.mkdir()
    for name in ("a.nii.gz", "deep er/b.nrrd"):
        write_ct(scans / name)
    (scans / "broken.nrrd").write_bytes(b"NRRD0004")
    (scans / "notes.txt").write_text("no scan")
    write_ct(scans / "a.seg.nrrd")
    jobs = folderJobs(logic.command, scans, output, settings)

    assert run(slicer, BatchRun(jobs, output / "results.csv")) == [
        ("a.nii", "done"),
        ("broken.nrrd", "failed"),
        ("deep er_b.nrrd", "done"),
    ]
    assert sorted(path.name for path in output.glob("*.seg.nrrd")) == [
        "a.nii.seg.nrrd",
        "deep er_b.nrrd.seg.nrrd",
    ]
    table = rows_of(output / "results.csv")
    assert [row["state"] for row in table] == ["done", "failed", "done"]
    assert table[0]["volume_ml"] == "1.00"
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []


def test_cancelled_batch_keeps_what_is_done_and_leaves_out_the_rest(
    slicer, logic, settings, tmp_path, monkeypatch
):
    from SAHLoRASegmenterLib.batch import BatchRun, volumeJobs

    nodes = [add_ct(slicer, name) for name in "ABC"]
    batch = BatchRun(volumeJobs(logic, nodes, settings), tmp_path / "results.csv")

    def cancel_during_the_second(batch):
        monkeypatch.setenv("SAHLORA_FAKE", "polite")  # for the next child
        if batch.rows[1].state == "running":
            batch.cancel()

    batch.changed.connect(cancel_during_the_second)

    assert run(slicer, batch) == [("A", "done"), ("B", "cancelled"), ("C", "cancelled")]
    assert [row["state"] for row in rows_of(tmp_path / "results.csv")] == ["done", "cancelled", "cancelled"]
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1
