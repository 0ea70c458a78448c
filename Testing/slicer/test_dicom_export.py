"""A result can be exported as DICOM SEG: it has all that Slicer's exporter asks a segmentation node for.

The exporter itself is part of the application. What it takes from the node (reference volume, merged label
map, terminology, algorithm) is taken here in the same way and written with highdicom.
"""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A DICOM series of 6 slices of brain, with two pieces of 70 HU."""
    simulation = pytest.importorskip("sahlora.simulation.head")
    from sahlora.simulation.scanner import Acquisition
    from sahlora.simulation.writers import write_dicom_series

    hu = np.full((6, 40, 48), 30, np.int16)
    hu[:, :4] = -1000
    hu[2:5, 10:20, 8:30] = 70
    hu[4, 30:34, 40:45] = 70
    heights = tuple(np.arange(6) * 5.0)
    acquisition = Acquisition(heights, (5.0,) * 6, (0.9, 0.8), (40, 48), tilt=0.0)
    head = simulation.SimulatedHead(simulation.HeadPhantom(), acquisition, hu, (hu == 70).astype(np.uint8))
    return sorted(write_dicom_series(head, tmp_path_factory.mktemp("a DICOM series")))


@pytest.fixture
def ct(slicer, series):
    """The series as Slicer's DICOM module loads it, with its study in the subject hierarchy."""
    import pydicom

    node = slicer.vtkMRMLScalarVolumeNode()
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(series[0]))
    storage.ResetFileNameList()
    for path in series:
        storage.AddFileName(str(path))
    storage.SetSingleFile(0)
    node.SetName("Head")
    slicer.mrmlScene.AddNode(node)
    assert storage.ReadData(node)
    images = [pydicom.dcmread(path, stop_before_pixels=True) for path in series]
    node.SetAttribute("DICOM.instanceUIDs", " ".join(image.SOPInstanceUID for image in images))
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)
    return node


@pytest.fixture
def run(slicer, ct):
    from SAHLoRASegmenter import SAHLoRASegmenterLogic

    from SAHLoRACoreLib.childprocess import pythonExecutable
    from SAHLoRACoreLib.testdoubles import fakechild

    return SAHLoRASegmenterLogic([pythonExecutable(), fakechild.__file__]).segment(ct, waitForCompletion=True)


def tag(segment, name: str) -> str:
    import vtk

    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else ""


def codes(segment) -> dict[str, list[str]]:
    """Read a terminology entry as Slicer does: parts between ~, codes as scheme^value^words."""
    entry = tag(segment, segment.GetTerminologyEntryTagName()).split("~")
    names = ("context", "category", "type", "modifier", "regions", "region", "region modifier")
    return {name: part.split("^") for name, part in zip(names, entry, strict=True)}


def exported_mask(slicer, run):
    """Return the merged label map that the exporter writes for the segment, (slice, row, column)."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    image, segments = slicer.vtkOrientedImageData(), vtk.vtkStringArray()
    segments.InsertNextValue(run.segmentedResult.segmentID)
    run.segmentationNode.GenerateMergedLabelmapForAllSegments(image, 0, None, segments)
    mask = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]) > 0
    return image, mask


def test_reference_volume_is_the_dicom_series_in_the_same_study(slicer, run, ct):
    node = run.segmentationNode
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node)

    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is ct
    assert hierarchy.GetItemParent(item) == hierarchy.GetItemParent(hierarchy.GetItemByDataNode(ct))
    assert hierarchy.GetItemAttribute(item, "DICOM.ReferencedInstanceUIDs") == ct.GetAttribute(
        "DICOM.instanceUIDs"
    )


def test_segment_has_the_terminology_and_algorithm_that_export_needs(slicer, run):
    segment = run.segmentationNode.GetSegmentation().GetSegment(run.segmentedResult.segmentID)
    found = codes(segment)

    assert found["category"][:2] == ["SCT", "49755003"]
    assert found["type"] == ["SCT", "50960005", "Hemorrhage"]
    assert found["region"][:2] == ["SCT", "35951006"]
    assert tag(segment, "DICOM.SegmentAlgorithmType") == "AUTOMATIC"
    assert tag(segment, "DICOM.SegmentAlgorithmName") == "Made-up model"


def test_correction_by_hand_makes_the_segment_semiautomatic(slicer, run):
    run.segmentedResult.noteCorrection()
    segment = run.segmentationNode.GetSegmentation().GetSegment(run.segmentedResult.segmentID)

    assert tag(segment, "DICOM.SegmentAlgorithmType") == "SEMIAUTOMATIC"


def test_dicom_seg_of_the_node_holds_its_mask_on_the_images_it_was_drawn_on(
    slicer, run, ct, series, tmp_path
):
    import highdicom
    import pydicom
    from pydicom.sr.coding import Code

    segment = run.segmentationNode.GetSegmentation().GetSegment(run.segmentedResult.segmentID)
    image, mask = exported_mask(slicer, run)
    assert image.GetDimensions() == ct.GetImageData().GetDimensions()
    np.testing.assert_array_equal(
        mask,
        slicer.util.arrayFromSegmentBinaryLabelmap(run.segmentationNode, run.segmentedResult.segmentID, ct)
        > 0,
    )
    grid = slicer.util.vtkMatrixFromArray(np.eye(4))
    image.GetImageToWorldMatrix(grid)
    found = codes(segment)
    sources = sorted(map(pydicom.dcmread, series), key=lambda source: source.ImagePositionPatient[2])
    upwards = slicer.util.arrayFromVTKMatrix(grid)[2, 2] > 0
    stack = mask if upwards else mask[::-1]
    algorithm = highdicom.AlgorithmIdentificationSequence(
        tag(segment, "DICOM.SegmentAlgorithmName"), Code("123110", "DCM", "Artificial Intelligence"), "1"
    )
    description = highdicom.seg.SegmentDescription(
        1,
        segment.GetName(),
        Code(found["category"][1], found["category"][0], found["category"][2]),
        Code(found["type"][1], found["type"][0], found["type"][2]),
        tag(segment, "DICOM.SegmentAlgorithmType"),
        algorithm,
        anatomic_regions=[Code(found["region"][1], found["region"][0], found["region"][2])],
    )
    highdicom.seg.Segmentation(
        sources, stack.astype(np.uint8), "BINARY", [description], highdicom.UID(), 100, highdicom.UID(), 1,
        "SAHLoRA", "Segmenter", "1", "0", omit_empty_frames=False,
    ).save_as(tmp_path / "seg.dcm")  # fmt: skip
    read = highdicom.seg.segread(tmp_path / "seg.dcm")
    uids = [source.SOPInstanceUID for source in sources]
    frames = read.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)[..., 0]

    np.testing.assert_array_equal(frames > 0, stack)
    assert stack.any()
    assert set(uids) == set(ct.GetAttribute("DICOM.instanceUIDs").split())
    assert read.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "50960005"
