"""The harness speaks PythonQt and is stricter than Slicer where that catches mistakes."""

from typing import Annotated

import pytest


@pytest.fixture
def button(slicer):
    import qt

    return qt.QPushButton("Segment")


def test_properties_are_attributes_and_change_the_real_widget(button):
    button.enabled = False
    button.text = "Cancel"

    assert (button.enabled, button.text, button.isEnabled()) == (False, "Cancel", False)


def test_misspelled_property_and_signal_raise(button):
    with pytest.raises(AttributeError, match="enable"):
        button.enable = True
    with pytest.raises(ValueError, match="clickd"):
        button.connect("clickd(bool)", print)
    with pytest.raises(TypeError):
        button.text()


def test_slot_gets_as_many_arguments_as_it_takes(button):
    calls = []
    button.connect("clicked(bool)", lambda: calls.append("none"))
    button.connect("clicked(bool)", lambda checked: calls.append(checked))
    button.click()

    assert calls == ["none", False]


def test_disconnected_slot_is_not_called(button):
    calls = []
    button.connect("clicked()", calls.append)
    button.disconnect("clicked()", calls.append)
    button.click()

    assert calls == []


def test_signals_do_not_eat_references(button):
    """What PySide6 6.12 gets wrong before Python 3.12, and what then ends the process somewhere else."""
    import sys

    button.connect("clicked(bool)", lambda checked: None)
    before = sys.getrefcount(None)
    for _ in range(1000):
        button.click()

    assert sys.getrefcount(None) > before - 500


def test_unknown_widget_in_a_ui_file_raises(slicer, tmp_path):
    (tmp_path / "panel.ui").write_text(
        '<ui version="4.0"><widget class="QNothing" name="w"/></ui>', encoding="utf-8"
    )

    with pytest.raises(Exception, match="QNothing"):
        slicer.util.loadUI(str(tmp_path / "panel.ui"))


def test_node_selector_follows_the_scene(slicer):
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.noneEnabled = True
    selector.setMRMLScene(slicer.mrmlScene)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    selector.setCurrentNode(node)
    assert selector.currentNode() is node
    slicer.mrmlScene.RemoveNode(node)

    assert selector.currentNode() is None


def test_parameters_are_checked_and_kept_in_the_node(slicer):
    from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

    @parameterNodeWrapper
    class Parameters:
        device: Annotated[str, Choice(["auto", "cpu"])] = "auto"
        threshold: Annotated[float, WithinRange(0.0, 1.0)] = 0.5

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    Parameters(node).threshold = 0.25

    assert Parameters(node).threshold == 0.25
    with pytest.raises(ValueError, match="device"):
        Parameters(node).device = "abacus"
    with pytest.raises(TypeError, match="threshold"):
        Parameters(node).threshold = "half"
