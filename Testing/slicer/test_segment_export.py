"""A segment of any geometry comes on the voxels of its CT, checked against positions worked out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from test_scene import add_ct, add_transform, oblique_grid, ras_of_file, sheared, turned

IDENTITY = np.eye(4)


def add_segments(slicer, grid, masks, transform=IDENTITY, names="abc"):
    """A segmentation on a grid of its own with a segment for each mask (z, y, x), under a transform."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Outline")
    volume = slicer.util.addVolumeFromArray(masks[0], ijkToRAS=slicer.util.vtkMatrixFromArray(grid))
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for name, mask in zip(names, masks, strict=False):
        node.GetSegmentation().AddEmptySegment(name, name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, name, volume)
    slicer.mrmlScene.RemoveNode(volume)
    if transform is not IDENTITY:
        node.SetAndObserveTransformNodeID(add_transform(slicer, transform).GetID())
    return node


def blobs(shape, seed=1):
    """A random mask of pieces larger than a voxel."""
    coarse = np.random.default_rng(seed).random([-(-n // 3) for n in shape]) > 0.5
    mask = np.kron(coarse, np.ones((3, 3, 3), bool))
    return mask[tuple(slice(n) for n in shape)].astype(np.uint8)


def expected(image, to_world, mask):
    """What the mask, whose voxels `to_world` takes to RAS, has at the center of each voxel of a file."""
    shape = sitk.GetArrayViewFromImage(image).shape
    way = np.linalg.inv(to_world) @ ras_of_file(image)
    indices = np.indices(shape)[::-1].reshape(3, -1)
    found = np.rint(way[:3, :3] @ indices + way[:3, 3:]).astype(int)[::-1]
    inside = np.all([(i >= 0) & (i < n) for i, n in zip(found, mask.shape, strict=True)], axis=0)
    values = np.zeros(inside.shape, np.uint8)
    values[inside] = mask[tuple(found[:, inside])]
    return values.reshape(shape)


def export(volume, segmentation, segment, folder):
    from SAHLoRACoreLib.scene import exportVolume, segmentOn, writeImage

    exported = exportVolume(volume, folder / "ct.nrrd")
    writeImage(segmentOn(segmentation, segment, exported.image), folder / "label.nrrd")
    image, label = (sitk.ReadImage(str(folder / name)) for name in ("ct.nrrd", "label.nrrd"))
    assert label.GetSize() == image.GetSize()
    np.testing.assert_allclose(ras_of_file(label), ras_of_file(image), atol=1e-6)
    return image, sitk.GetArrayFromImage(label)


CT_GRID = oblique_grid(spacing=(1.0, 1.1, 5.0))
GEOMETRIES = {
    "same grid": (CT_GRID, IDENTITY, IDENTITY),
    "flipped": (CT_GRID @ [[-1, 0, 0, 29], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, 1]], IDENTITY, IDENTITY),
    "oblique": (turned(0.2, (1.3, 2.1, 0.7)) @ CT_GRID, IDENTITY, IDENTITY),
    "finer": (CT_GRID @ np.diag([0.47, 0.51, 0.3, 1.0]), IDENTITY, IDENTITY),
    "segmentation under a transform": (CT_GRID, IDENTITY, turned(0.1, (2.2, -1.7, 3.1))),
    "CT under a transform": (CT_GRID, turned(), IDENTITY),
    "both under transforms": (CT_GRID, turned(), turned(0.6, (3.4, -4.2, 5.1))),
    "CT sheared": (CT_GRID, sheared(), sheared()),
    "segmentation sheared": (CT_GRID, IDENTITY, sheared()),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_segment_lies_on_the_voxels_of_its_ct(slicer, tmp_path, geometry):
    grid, ct_transform, transform = GEOMETRIES[geometry]
    volume = add_ct(slicer, CT_GRID, shape=(6, 25, 30))
    if ct_transform is not IDENTITY:
        volume.SetAndObserveTransformNodeID(add_transform(slicer, ct_transform).GetID())
    mask = blobs((21, 50, 60) if geometry == "finer" else (6, 25, 30))
    image, label = export(volume, add_segments(slicer, grid, [mask], transform), "a", tmp_path)
    wanted = expected(image, transform @ grid, mask)

    assert wanted.any()
    assert (label != wanted).mean() < 2e-3  # voxels whose center lies on the border of two
    if geometry in ("same grid", "flipped"):
        np.testing.assert_array_equal(label, wanted)


def test_segment_under_the_transform_of_its_ct_keeps_its_voxels(slicer, tmp_path):
    volume, mask = add_ct(slicer, CT_GRID, shape=(6, 25, 30)), blobs((6, 25, 30))
    segmentation, transform = add_segments(slicer, CT_GRID, [mask]), add_transform(slicer, turned())
    for node in (volume, segmentation):
        node.SetAndObserveTransformNodeID(transform.GetID())

    np.testing.assert_array_equal(export(volume, segmentation, "a", tmp_path)[1], mask)


def test_only_the_chosen_segment_of_a_shared_layer_is_exported(slicer, tmp_path):
    volume, mask = add_ct(slicer, CT_GRID, shape=(6, 25, 30)), blobs((6, 25, 30))
    segmentation = add_segments(slicer, CT_GRID, [mask, 1 - mask])
    segmentation.GetSegmentation().CollapseBinaryLabelmaps(False)
    assert segmentation.GetSegmentation().GetNumberOfLayers() == 1

    np.testing.assert_array_equal(export(volume, segmentation, "a", tmp_path)[1], mask)
    np.testing.assert_array_equal(export(volume, segmentation, "b", tmp_path)[1], 1 - mask)


def test_segment_of_a_scan_without_blood_is_exported_empty(slicer, tmp_path):
    volume = add_ct(slicer, CT_GRID)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.GetSegmentation().AddEmptySegment("a", "a")
    node.GetSegmentation().GetSegment("a").AddRepresentation("Binary labelmap", slicer.vtkOrientedImageData())

    assert not export(volume, node, "a", tmp_path)[1].any()


def test_segment_of_another_patient_is_refused(slicer, tmp_path):
    far = CT_GRID.copy()
    far[:3, 3] += 1000

    with pytest.raises(ValueError, match="does not lie on the CT"):
        export(add_ct(slicer, CT_GRID), add_segments(slicer, far, [blobs((6, 8, 10))]), "a", tmp_path)


def test_surface_without_voxels_is_refused_with_a_way_out(slicer, tmp_path):
    segmentation = add_segments(slicer, CT_GRID, [blobs((6, 8, 10))])
    segmentation.GetSegmentation().GetSegment("a").RemoveAllRepresentations()

    with pytest.raises(ValueError, match="module Segmentations"):
        export(add_ct(slicer, CT_GRID), segmentation, "a", tmp_path)
