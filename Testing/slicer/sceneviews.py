"""Pictures of a result as Slicer's views would show it, from the nodes of the scene, without a display."""

from __future__ import annotations

from typing import Any

import numpy as np

SIZE = 360  # pixels of a view
WINDOW_HU = (0.0, 90.0)
OUTLINE = (1.0, 0.35, 0.2)
BACKGROUND = (0.02, 0.02, 0.04)


def views(slicer: Any, segmentation: Any) -> list[tuple[str, Any]]:
    """Return title and picture (height, width, 3) of axial slice, surface, coronal slice and chart."""
    from SAHLoRASegmenterLib.results import Result

    result = Result.of(segmentation)
    hu = slicer.util.arrayFromVolume(result.volumeNode)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, result.segmentID, result.volumeNode) > 0
    x, y, z = result.volumeNode.GetSpacing()
    axial, coronal = (int(mask.sum(axis=axes).argmax()) for axes in ((1, 2), (0, 2)))
    disagreement = slicer.util.arrayFromVolume(result.disagreementNode)
    return [
        ("Axial: CT and outline", slice_picture(hu[axial], mask[axial], (y, x))),
        ("3D: surface", surface_picture(segmentation, result.segmentID)),
        ("Coronal: CT and outline", slice_picture(hu[::-1, coronal], mask[::-1, coronal], (z, x))),
        ("Axial: disagreement", slice_picture(hu[axial], mask[axial], (y, x), disagreement[axial])),
        ("Chart: area per slice", chart_picture(slicer, result)),
    ]


def slice_picture(hu: Any, mask: Any, spacing: tuple[float, float], over: Any = None) -> Any:
    """Draw a slice with the edge of the outline, and another map over it, on square pixels."""
    from scipy import ndimage

    low, high = WINDOW_HU
    gray = np.clip((hu - low) / (high - low), 0, 1)
    factors = np.array(spacing) / min(spacing)
    scale = SIZE / max(np.array(hu.shape) * factors)
    size = np.maximum(1, np.rint(np.array(hu.shape) * factors * scale)).astype(int)
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1)
        for n, m in zip(size, hu.shape, strict=True)
    )
    picture = np.repeat(gray[np.ix_(rows, columns)][..., None], 3, axis=2)
    if over is not None:
        share = np.clip(over[np.ix_(rows, columns)] / 0.5, 0, 1)[..., None]
        warm = np.concatenate([np.sqrt(share), share, share**3], axis=2)
        picture = np.where(share > 0.02, 0.4 * picture + 0.6 * warm, picture)
    inside = mask[np.ix_(rows, columns)]
    edge = inside ^ ndimage.binary_erosion(inside)
    picture[edge] = OUTLINE
    whole = np.empty((SIZE, SIZE, 3))
    whole[:] = BACKGROUND
    top, left = (SIZE - size) // 2
    whole[top : top + size[0], left : left + size[1]] = picture
    return (255 * whole).astype(np.uint8)


def surface_picture(segmentation: Any, segment_id: str) -> Any:
    """Render the closed surface of a segment, seen from the right front and above."""
    import vtk

    polydata = vtk.vtkPolyData()
    segmentation.GetClosedSurfaceRepresentation(segment_id, polydata)
    mapper = vtk.vtkPolyDataMapper()
    mapper.SetInputData(polydata)
    mapper.ScalarVisibilityOff()
    actor = vtk.vtkActor()
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor(*segmentation.GetSegmentation().GetSegment(segment_id).GetColor())
    renderer = vtk.vtkRenderer()
    renderer.SetBackground(0.62, 0.64, 0.80)
    renderer.AddActor(actor)
    camera = renderer.GetActiveCamera()
    camera.SetViewUp(0, 0, 1)
    camera.SetPosition(0.7, 1.0, 0.6)
    camera.SetFocalPoint(0, 0, 0)
    renderer.ResetCamera()
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(True)
    window.SetSize(SIZE, SIZE)
    window.AddRenderer(renderer)
    return grabbed(window)


def chart_picture(slicer: Any, result: Any) -> Any:
    """Draw the chart of the areas from its nodes, with VTK's charts as Slicer's plot view does."""
    import vtk

    chart_node = result.chartNode
    series = chart_node.GetNthPlotSeriesNode(0)
    chart = vtk.vtkChartXY()
    line = chart.AddPlot(vtk.vtkChart.LINE)
    line.SetInputData(series.GetTableNode().GetTable(), 0, 1)
    line.SetColorF(*series.GetColor())
    line.SetMarkerStyle(vtk.vtkPlotPoints.CIRCLE)
    for axis, title in ((0, chart_node.GetYAxisTitle()), (1, chart_node.GetXAxisTitle())):
        chart.GetAxis(axis).SetTitle(title)
    view = vtk.vtkContextView()
    view.GetScene().AddItem(chart)
    window = view.GetRenderWindow()
    window.SetOffScreenRendering(True)
    window.SetSize(2 * SIZE, SIZE // 2 + 60)
    return grabbed(window)


def grabbed(window: Any) -> Any:
    """Render a window and return its pixels (height, width, 3)."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    window.SetMultiSamples(8)
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    image = grab.GetOutput()
    width, height, _depth = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()


def beside(panel: Any, pictures: list[tuple[str, Any]]) -> Any:
    """Return a picture of the panel with the views to its right: two columns of two, and the chart below."""
    from PySide6.QtGui import QColor, QFont, QImage, QPainter, QPixmap

    *square, wide = pictures
    height = max(panel.height(), 2 * SIZE + wide[1].shape[0] + 16)
    whole = QPixmap(panel.width() + 2 * SIZE + 16, height)
    whole.fill(QColor("#202028"))
    painter = QPainter(whole)
    painter.drawPixmap(0, 0, panel)
    painter.setFont(QFont("DejaVu Sans", 10))
    left = panel.width() + 8
    places = [(left + SIZE * (n % 2), (SIZE + 4) * (n // 2)) for n in range(4)] + [(left, 2 * SIZE + 8)]
    for (title, pixels), (x, y) in zip([*square, wide], places, strict=True):
        rows, columns, _colors = pixels.shape
        image = QImage(np.ascontiguousarray(pixels).data, columns, rows, 3 * columns, QImage.Format_RGB888)
        painter.drawImage(x, y, image)
        if pixels is not wide[1]:
            painter.setPen(QColor("#ffffff"))
            painter.drawText(x + 10, y + 20, title)
    painter.end()
    return whole
