"""What goes to the child and comes back lies where it lay in the scene, on real MRML nodes and real files."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

LPS = np.diag([-1.0, -1.0, 1.0])
BLOOD = "Segmentation category and type - 3D Slicer General Anatomy list"
BLOOD += "~SCT^49755003^Morphologically Altered Structure~SCT^50960005^Hemorrhage~^^"
BLOOD += "~Anatomic codes - DICOM master list~SCT^35951006^Subarachnoid space~^^"


def oblique_grid(spacing=(0.5, 0.4, 5.0), flip=1.0) -> np.ndarray:
    """A voxel grid turned by 0.3 rad about x and 0.2 about z, one axis flipped if `flip` is -1."""
    a, b = 0.3, 0.2
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    grid = np.eye(4)
    grid[:3, :3] = about_z @ about_x @ np.diag([-1.0, flip, 1.0]) @ np.diag(spacing)
    grid[:3, 3] = 10, -20, 30
    return grid


def add_ct(slicer, grid, shape=(6, 8, 10), name="CT"):
    """A CT of random HU, shape (z, y, x)."""
    hu = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    return slicer.util.addVolumeFromArray(hu, ijkToRAS=slicer.util.vtkMatrixFromArray(grid), name=name)


def add_transform(slicer, matrix):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def turned(angle=0.5, shift=(3.0, -4.0, 5.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = shift
    return matrix


def sheared() -> np.ndarray:
    """Gantry tilt: slices are shifted along y by a third of their height."""
    matrix = np.eye(4)
    matrix[1, 2] = 1 / 3
    return matrix


def ras_of_file(image: sitk.Image) -> np.ndarray:
    """4×4 matrix from voxel indices to RAS of a file that SimpleITK read."""
    grid = np.eye(4)
    grid[:3, :3] = LPS @ np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    grid[:3, 3] = LPS @ image.GetOrigin()
    return grid


def write_seg_nrrd(path, label: sitk.Image) -> None:
    from SAHLoRACoreLib.testdoubles.fakechild import write_segmentation

    write_segmentation(label, path)


def world_points(slicer, node, mask) -> np.ndarray:
    """World positions (N, 3) of the voxels of a mask (z, y, x) of a volume node, sorted."""
    import vtk

    grid = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(grid)
    grid = slicer.util.arrayFromVTKMatrix(grid)
    if node.GetParentTransformNode():
        to_world = vtk.vtkMatrix4x4()
        node.GetParentTransformNode().GetMatrixTransformToWorld(to_world)
        grid = slicer.util.arrayFromVTKMatrix(to_world) @ grid
    indices = np.argwhere(mask)[:, ::-1]
    return in_order(indices @ grid[:3, :3].T + grid[:3, 3])


def segment_points(slicer, node) -> np.ndarray:
    """World positions (N, 3) of the voxels of the first segment, sorted."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    image = node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    grid = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(grid)
    grid = slicer.util.arrayFromVTKMatrix(grid)
    if node.GetParentTransformNode():
        to_world = vtk.vtkMatrix4x4()
        node.GetParentTransformNode().GetMatrixTransformToWorld(to_world)
        grid = slicer.util.arrayFromVTKMatrix(to_world) @ grid
    x0, _, y0, _, z0, _ = image.GetExtent()
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    indices = np.argwhere(values > 0)[:, ::-1] + (x0, y0, z0)
    return in_order(indices @ grid[:3, :3].T + grid[:3, 3])


def in_order(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(np.round(points, 3).T)]


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_exported_file_has_the_voxels_and_geometry_of_an_oblique_volume(slicer, tmp_path, flip):
    from SAHLoRACoreLib.scene import exportVolume

    node = add_ct(slicer, oblique_grid(flip=flip))
    image = sitk.ReadImage(str(exportVolume(node, tmp_path / "ct.nrrd").path))

    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), slicer.util.arrayFromVolume(node))
    np.testing.assert_allclose(ras_of_file(image), oblique_grid(flip=flip), atol=1e-9)


def test_exported_file_lies_where_a_rigid_transform_puts_the_volume(slicer, tmp_path):
    from SAHLoRACoreLib.scene import exportVolume

    node = add_ct(slicer, oblique_grid())
    node.SetAndObserveTransformNodeID(add_transform(slicer, turned()).GetID())
    exported = exportVolume(node, tmp_path / "ct.nrrd")
    image = sitk.ReadImage(str(exported.path))

    assert exported.keepsVoxels
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), slicer.util.arrayFromVolume(node))
    np.testing.assert_allclose(ras_of_file(image), turned() @ oblique_grid(), atol=1e-9)


def test_export_leaves_the_node_and_the_scene_as_they_were(slicer, tmp_path):
    from SAHLoRACoreLib.scene import exportVolume

    node = add_ct(slicer, oblique_grid())
    node.SetAndObserveTransformNodeID(add_transform(slicer, sheared()).GetID())
    before = slicer.mrmlScene.GetNumberOfNodes(), slicer.util.arrayFromVolume(node).copy(), node.GetOrigin()
    exportVolume(node, tmp_path / "ct.nrrd")

    assert slicer.mrmlScene.GetNumberOfNodes() == before[0]
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), before[1])
    assert node.GetOrigin() == before[2]


def test_sheared_volume_is_resampled_in_world_space(slicer, tmp_path):
    """A plane wave in world coordinates, sampled under the shear, comes back as that wave."""
    from SAHLoRACoreLib.scene import AIR_HU, exportVolume

    grid = np.diag([1.0, 1.0, 1.5, 1.0])
    indices = np.indices((12, 20, 16))[::-1].reshape(3, -1)
    world = (sheared() @ grid)[:3, :3] @ indices
    hu = (3 * world[0] + 5 * world[1] - 2 * world[2]).reshape(12, 20, 16).astype(np.float32)
    node = slicer.util.addVolumeFromArray(hu, ijkToRAS=slicer.util.vtkMatrixFromArray(grid))
    node.SetAndObserveTransformNodeID(add_transform(slicer, sheared()).GetID())
    exported = exportVolume(node, tmp_path / "ct.nrrd")
    image = sitk.ReadImage(str(exported.path))
    values = sitk.GetArrayFromImage(image)
    positions = ras_of_file(image)[:3, :3] @ np.indices(values.shape)[::-1].reshape(3, -1)
    positions += ras_of_file(image)[:3, 3:]
    expected = (3 * positions[0] + 5 * positions[1] - 2 * positions[2]).reshape(values.shape)
    voxel = (np.linalg.inv(sheared() @ grid)[:3, :3] @ positions).reshape(3, *values.shape)
    between = np.all(
        [(v > -1e-6) & (v < n - 1 + 1e-6) for v, n in zip(voxel, (16, 20, 12), strict=True)], axis=0
    )

    assert not exported.keepsVoxels
    assert image.GetDirection() == (-1, 0, 0, 0, -1, 0, 0, 0, 1)
    assert between.sum() > 0.7 * hu.size
    assert not np.any(between & (values == AIR_HU))
    np.testing.assert_allclose(values[between], expected[between], atol=1e-3)


@pytest.mark.parametrize("matrix", [None, turned(), sheared()], ids=["no transform", "rigid", "sheared"])
def test_segmentation_lies_on_the_voxels_the_child_labeled(slicer, tmp_path, matrix):
    from SAHLoRACoreLib.scene import exportVolume, importSegmentation

    node = add_ct(slicer, oblique_grid(), shape=(9, 12, 14))
    if matrix is not None:
        node.SetAndObserveTransformNodeID(add_transform(slicer, matrix).GetID())
    exported = exportVolume(node, tmp_path / "ct.nrrd")
    label = sitk.ReadImage(str(exported.path)) > 0
    write_seg_nrrd(tmp_path / "label.seg.nrrd", label)
    segmentation = importSegmentation(tmp_path / "label.seg.nrrd", exported)
    world = exported.node if exported.keepsVoxels else exported.image

    expected = world_points(slicer, world, sitk.GetArrayFromImage(label) > 0)
    np.testing.assert_allclose(segment_points(slicer, segmentation), expected, atol=1e-6)
    assert len(expected) > 50


def test_segmentation_follows_the_transform_of_its_volume(slicer, tmp_path):
    from SAHLoRACoreLib.scene import exportVolume, importSegmentation

    node, transform = add_ct(slicer, oblique_grid()), add_transform(slicer, turned())
    node.SetAndObserveTransformNodeID(transform.GetID())
    exported = exportVolume(node, tmp_path / "ct.nrrd")
    write_seg_nrrd(tmp_path / "label.seg.nrrd", sitk.ReadImage(str(exported.path)) > 0)
    segmentation = importSegmentation(tmp_path / "label.seg.nrrd", exported)
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(turned(angle=-1.0)))

    expected = world_points(slicer, node, slicer.util.arrayFromVolume(node) > 0)
    np.testing.assert_allclose(segment_points(slicer, segmentation), expected, atol=1e-6)


def test_segment_keeps_the_name_color_and_terminology_of_the_file(slicer, tmp_path):
    import vtk

    from SAHLoRACoreLib.scene import exportVolume, importSegmentation

    exported = exportVolume(add_ct(slicer, oblique_grid()), tmp_path / "ct.nrrd")
    write_seg_nrrd(tmp_path / "label.seg.nrrd", sitk.ReadImage(str(exported.path)) > 0)
    segment = importSegmentation(tmp_path / "label.seg.nrrd", exported).GetSegmentation().GetNthSegment(0)
    terminology = vtk.reference("")
    segment.GetTag("TerminologyEntry", terminology)

    assert segment.GetName() == "Hemorrhage"
    assert tuple(round(255 * part) for part in segment.GetColor()) == (188, 65, 28)
    assert str(terminology) == BLOOD
    assert not segment.GetNameAutoGenerated()
    assert not segment.GetColorAutoGenerated()


def test_reference_geometry_of_the_segmentation_is_the_source_volume(slicer, tmp_path):
    from SAHLoRACoreLib.scene import exportVolume, importSegmentation

    node = add_ct(slicer, oblique_grid())
    exported = exportVolume(node, tmp_path / "ct.nrrd")
    write_seg_nrrd(tmp_path / "label.seg.nrrd", sitk.ReadImage(str(exported.path)) > 0)
    segmentation = importSegmentation(tmp_path / "label.seg.nrrd", exported)
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    name = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    geometry = slicer.vtkOrientedImageData()
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(
        segmentation.GetSegmentation().GetConversionParameter(name), geometry, False
    )

    assert segmentation.GetNodeReference(role) is node
    assert geometry.GetDimensions() == node.GetImageData().GetDimensions()


def test_results_lie_beside_the_ct_in_its_study_and_replace_nothing(slicer, tmp_path):
    from SAHLoRACoreLib.scene import exportVolume, importMap, importSegmentation

    node = add_ct(slicer, oblique_grid())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)
    exported = exportVolume(node, tmp_path / "ct.nrrd")
    write_seg_nrrd(tmp_path / "label.seg.nrrd", sitk.ReadImage(str(exported.path)) > 0)
    results = [importSegmentation(tmp_path / "label.seg.nrrd", exported) for _ in range(2)]
    results.append(importMap(exported.path, exported, "CT probability", "probability"))

    assert {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(result)) for result in results} == {study}
    assert len({result.GetName() for result in results}) == 3


def test_probability_map_lies_on_the_volume_under_the_same_transform(slicer, tmp_path):
    from SAHLoRACoreLib.scene import exportVolume, importMap

    node = add_ct(slicer, oblique_grid())
    node.SetAndObserveTransformNodeID(add_transform(slicer, turned()).GetID())
    exported = exportVolume(node, tmp_path / "ct.nrrd")
    probability = importMap(exported.path, exported, "CT probability", "probability")
    everything = np.ones(slicer.util.arrayFromVolume(node).shape, dtype=bool)

    np.testing.assert_array_equal(slicer.util.arrayFromVolume(probability), slicer.util.arrayFromVolume(node))
    np.testing.assert_allclose(
        world_points(slicer, probability, everything), world_points(slicer, node, everything), atol=1e-6
    )


def test_volume_is_exported_with_the_voxels_it_has_at_that_moment(slicer, tmp_path):
    """The node a sequence shows its frames in gets a new image with every frame."""
    import vtk

    from SAHLoRACoreLib.scene import exportVolume

    node = add_ct(slicer, oblique_grid())
    frame = vtk.vtkImageData()
    frame.DeepCopy(node.GetImageData())
    node.SetAndObserveImageData(frame)
    slicer.util.arrayFromVolume(node)[:] = 20

    assert set(
        sitk.GetArrayFromImage(sitk.ReadImage(str(exportVolume(node, tmp_path / "a.nrrd").path))).flat
    ) == {20}


@pytest.mark.parametrize("name", ["with space", "脳出血 Ünï", "x" * 100 + "/" + "y" * 120])
def test_volume_and_result_survive_any_folder_name(slicer, tmp_path, name):
    from SAHLoRACoreLib.scene import exportVolume, importSegmentation

    folder = tmp_path / name
    folder.mkdir(parents=True)
    exported = exportVolume(add_ct(slicer, oblique_grid()), folder / "ct.nrrd")
    write_seg_nrrd(folder / "label.seg.nrrd", sitk.ReadImage(str(exported.path)) > 0)

    assert len(segment_points(slicer, importSegmentation(folder / "label.seg.nrrd", exported))) > 0


def test_color_pictures_and_empty_volumes_are_refused_by_name(slicer, tmp_path):
    from SAHLoRACoreLib.scene import exportVolume

    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing")
    color = slicer.util.addVolumeFromArray(
        np.zeros((2, 3, 4, 3), np.uint8), nodeClassName="vtkMRMLVectorVolumeNode", name="Photo"
    )

    for node in (empty, color):
        with pytest.raises(ValueError, match=node.GetName()):
            exportVolume(node, tmp_path / "ct.nrrd")
    assert not (tmp_path / "ct.nrrd").exists()
