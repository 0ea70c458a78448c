"""The module SAHLoRASegmenter: outlines hemorrhage on head CT and measures it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class SAHLoRASegmenter(ScriptedLoadableModule):
    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SAHLoRA Segmenter")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["SAHLoRACore"]
        parent.contributors = ["SAHLoRA contributors"]
        parent.helpText = _(
            "Outlines hemorrhage on head CT and measures it. For research use only, not for diagnosis."
        )
        parent.helpText += self.getDefaultModuleDocumentationLink()
        parent.acknowledgementText = _(
            "The adapters follow Minoccheri et al., BMC Medical Imaging 26:58,"
            " doi 10.1186/s12880-025-02116-y."
        )


class SAHLoRASegmenterLogic(ScriptedLoadableModuleLogic):
    """Runs segmentations; works without a panel.

    Parameters
    ----------
    command : sequence of str, optional
        Beginning of the command line; by default Slicer's Python and the package ``sahlora``.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        from SAHLoRACoreLib.childprocess import commandPrefix

        ScriptedLoadableModuleLogic.__init__(self)
        self.command = list(command or commandPrefix())

    def getParameterNode(self) -> Any:
        from SAHLoRASegmenterLib.parameters import SAHLoRASegmenterParameterNode

        return SAHLoRASegmenterParameterNode(super().getParameterNode())

    def segment(
        self,
        volumeNode: Any,
        settings: Any = None,
        outputNode: Any = None,
        *,
        waitForCompletion: bool = False,
    ) -> Any:
        """Segment a volume in a child process and return the run, see `SAHLoRASegmenterLib.run`.

        Parameters
        ----------
        volumeNode : vtkMRMLScalarVolumeNode
            The CT.
        settings : SegmentSettings, optional
            By default the shipped model with its own threshold and views.
        outputNode : vtkMRMLSegmentationNode, optional
            Gets the outline as one more segment; by default a new segmentation is made.
        waitForCompletion : bool
            Return once the results are in the scene, at ``run.segmentationNode`` and
            ``run.measurementsNode``; otherwise at once, and the run's signals tell the rest.

        Raises
        ------
        ValueError
            If the settings or the volume can't be used; the message says what to do.
        ChildFailedError
            If the child failed while this waited.
        """
        from SAHLoRASegmenterLib.run import SegmentationRun
        from SAHLoRASegmenterLib.settings import SegmentSettings

        settings = settings or SegmentSettings()
        valid, reason = settings.isValid()
        if not valid:
            raise ValueError(reason)
        run = SegmentationRun(self.command, volumeNode, settings, outputNode)
        run.start()
        if waitForCompletion:
            run.wait()
        return run


class SAHLoRASegmenterWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. Logic and installer can be given, so that the panel is tested without torch."""

    def __init__(self, parent: Any = None, logic: Any = None, installer: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = logic
        self._installer = installer
        self._parameters: Any = None
        self._guiTag: int | None = None
        self._run: Any = None
        self._busy = False
        self._shown: Any = None  # the result node that the panel shows
        self._watched: Any = None  # the input volume, whose image may come or change
        self._watchTags: list[int] = []
        self._hasWindow = True  # whether it was given one to see blood in, where it had none

    # ------------------------------------------------------------------------------------- life of the panel

    def setup(self) -> None:
        from SAHLoRASegmenterLib.batchpanel import BatchPanel
        from SAHLoRASegmenterLib.devicepanel import DevicePanel
        from SAHLoRASegmenterLib.inputcheck import InputCheck
        from SAHLoRASegmenterLib.modelpanel import ModelPanel
        from SAHLoRASegmenterLib.resultpanel import ResultPanel
        from SAHLoRASegmenterLib.results import loadLibraries

        from SAHLoRACoreLib.installation import PackageInstaller

        ScriptedLoadableModuleWidget.setup(self)
        loadLibraries()
        self.logic = self.logic or SAHLoRASegmenterLogic()
        self._installer = self._installer or PackageInstaller()
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SAHLoRASegmenter.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.ui.cancelButton.connect("clicked(bool)", self.onCancel)
        self.ui.copyLogButton.connect("clicked(bool)", self.onCopyLog)
        self.ui.brainWindowButton.connect("clicked(bool)", self.onBrainWindow)
        self.ui.resultSelector.connect("nodeActivated(vtkMRMLNode*)", self.onResultActivated)
        self._inputCheck = InputCheck()
        self._modelPanel = ModelPanel(self.ui, self._refresh)
        self._devicePanel = DevicePanel(
            self.ui, self.logic.command, self._ensureInstalled, self._modelPanel.views
        )
        self._resultPanel = ResultPanel(self.ui)
        self._batchPanel = BatchPanel(
            self.ui, self.logic, self._prepareBatch, self._setBusy, self._takeResult
        )
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            self.addObserver(scene, event, self.onNodesChanged)
        self._useParameters(self.logic.getParameterNode())

    def cleanup(self) -> None:
        self._forgetScene()
        self._resultPanel.close()
        self.removeObservers()

    def enter(self) -> None:
        self._useParameters(self.logic.getParameterNode())  # models may have come since
        self._showResult(self._parameters.result)  # it may have been corrected in another module
        self._batchPanel.fill()

    def exit(self) -> None:
        """Leave everything as it is: a run goes on while another module is shown."""

    def onSceneStartClose(self, _caller: Any, _event: str) -> None:
        self._forgetScene()

    def onSceneEndClose(self, _caller: Any, _event: str) -> None:
        self._useParameters(self.logic.getParameterNode())

    def onSceneEndImport(self, _caller: Any, _event: str) -> None:
        """Show what a loaded scene brought: settings, result, and whether its models are there."""
        self._useParameters(self.logic.getParameterNode())
        self._showResult(self._parameters.result)
        self._batchPanel.fill()

    def onNodesChanged(self, _caller: Any, _event: str) -> None:
        if not (slicer.mrmlScene.IsClosing() or slicer.mrmlScene.IsBatchProcessing()):
            self._offerCTs()
            self._batchPanel.fill()
            self._resultPanel.onNodeRemoved()

    # ------------------------------------------------------------------------------------- state of the panel

    def _useParameters(self, parameters: Any) -> None:
        import vtk

        from SAHLoRACoreLib.choices import describe, precisions

        if self._parameters is not None:
            self._parameters.disconnectGui(self._guiTag)
            self.removeObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._refresh)
        self._parameters = parameters
        if parameters is not None:
            self._offerCTs()
            self._guiTag = parameters.connectGui(self.ui)
            describe(self.ui.precisionSelector, precisions())
            self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._refresh)
        self._modelPanel.use(parameters)
        self._devicePanel.use(parameters)
        self._refresh()

    def _offerCTs(self) -> None:
        """Offer the scene's CTs, and choose one if none is chosen: most often it was loaded just now."""
        from SAHLoRACoreLib.volumes import firstCT, offerPossibleCTs

        offerPossibleCTs(self.ui.inputSelector)
        if self._parameters is not None and self._parameters.inputVolume is None:
            self._parameters.inputVolume = firstCT()

    def _watch(self, volumeNode: Any) -> None:
        """Look at a volume again when its image comes or changes; show blood in one that was just chosen."""
        if volumeNode is self._watched:
            return
        for tag in self._watchTags:  # not by the mixin, which keeps what it observed, a patient's CT
            self._watched.RemoveObserver(tag)
        self._watched, self._hasWindow, self._watchTags = volumeNode, volumeNode is None, []
        if volumeNode is not None:
            self._watchTags = [
                volumeNode.AddObserver(volumeNode.ImageDataModifiedEvent, self._refresh),
                volumeNode.AddObserver(volumeNode.DisplayModifiedEvent, self._onDisplayChanged),
            ]
        self._onDisplayChanged()

    def _onDisplayChanged(self, _caller: Any = None, _event: str = "") -> None:
        """Show blood in the chosen CT, once it can be shown at all."""
        from SAHLoRASegmenterLib.inputcheck import inputObstacle

        from SAHLoRACoreLib.showing import useBrainWindowAtFirst

        if not (self._hasWindow or inputObstacle(self._watched) or self._inputCheck.warning(self._watched)):
            self._hasWindow = useBrainWindowAtFirst(self._watched)

    def _refresh(self, _caller: Any = None, _event: str = "") -> None:
        from SAHLoRASegmenterLib.obstacles import settingsObstacle, volumeObstacle

        ui, parameters = self.ui, self._parameters
        self._watch(parameters and parameters.inputVolume)
        obstacle = volumeObstacle(parameters, self._modelPanel)
        ui.applyButton.enabled = not (obstacle or self._busy)
        ui.brainWindowButton.enabled = self._watched is not None
        ui.applyButton.toolTip = obstacle or _("Segment the CT. The result is added to the scene.")
        ui.obstacleLabel.text = "" if self._busy else obstacle
        ui.obstacleLabel.visible = bool(ui.obstacleLabel.text)
        self._showCancel(self._run is not None)
        self._batchPanel.allow(not (self._busy or settingsObstacle(parameters, self._modelPanel)))
        self._modelPanel.refresh()
        self._devicePanel.refresh()
        self._warn(self._inputCheck.warning(parameters and parameters.inputVolume))
        if parameters is not None:
            ui.automaticViewsCheckBox.enabled = not self._modelPanel.decidesViews()
            ui.viewsWidget.enabled = not (parameters.automaticViews or self._modelPanel.decidesViews())
            ui.thresholdSlider.enabled = not parameters.modelThreshold
        if parameters is None or parameters.result is not self._shown:
            self._showResult(parameters and parameters.result)

    def _showCancel(self, running: bool) -> None:
        """Put Cancel in the place of Segment while a segmentation runs, with the keyboard's focus."""
        hidden, shown = self.ui.cancelButton, self.ui.applyButton
        if running:
            hidden, shown = shown, hidden
        hadFocus = hidden.focus
        shown.visible = True
        hidden.visible = False
        if hadFocus:
            shown.setFocus()
        self.ui.cancelButton.enabled = running

    def _warn(self, warning: str) -> None:
        self.ui.inputNoteLabel.text = warning
        self.ui.inputNoteLabel.visible = bool(warning)

    def _showResult(self, segmentationNode: Any) -> None:
        self._shown = segmentationNode
        self._resultPanel.use(segmentationNode)

    # ---------------------------------------------------------------------------------------------- running

    def onApply(self) -> None:
        from SAHLoRASegmenterLib.parameters import settingsOf

        with slicer.util.tryWithErrorDisplay(_("The segmentation could not be started.")):
            if not self._ensureInstalled():
                return
            self._setBusy(True)
            try:
                self.ui.statusLabel.text = _("Starting…")
                parameters = self._parameters
                self._run = self.logic.segment(
                    parameters.inputVolume, settingsOf(parameters), parameters.output
                )
                self._run.progress.connect(self.onProgress)
                self._run.finished.connect(self.onFinished)
                self._run.error.connect(self.onError)
            except Exception as error:
                self.ui.statusLabel.text = str(error)
                raise
            finally:
                self._setBusy(self._run is not None)

    def _ensureInstalled(self) -> bool:
        """Make sure that the packages are there, asking before anything is installed."""
        from SAHLoRACoreLib.installation import ensureInstalled

        self.ui.resultLabel.text = ""
        self.ui.logText.clear()
        self._setBusy(True)
        try:
            self.ui.statusLabel.text = _("Checking the installation…")
            installed = ensureInstalled(self._installer, slicer.util.confirmOkCancelDisplay)
            self.ui.statusLabel.text = "" if installed else _("Nothing was installed.")
            return installed
        except Exception as error:
            self.ui.statusLabel.text = str(error)
            raise
        finally:
            self._setBusy(False)

    def _prepareBatch(self) -> Any:
        """Return the settings of a batch; None if the packages are not there."""
        from SAHLoRASegmenterLib.parameters import settingsOf

        with slicer.util.tryWithErrorDisplay(_("The batch could not be started.")):
            return settingsOf(self._parameters) if self._ensureInstalled() else None
        return None

    def onCancel(self) -> None:
        if self._run is not None:
            self.ui.statusLabel.text = _("Canceling…")
            self.ui.cancelButton.enabled = False
            self._run.cancel()

    def onBrainWindow(self) -> None:
        """Show the chosen CT so that blood can be told from brain."""
        from SAHLoRACoreLib.showing import useBrainWindow

        useBrainWindow(self._parameters.inputVolume)

    def onResultActivated(self, segmentationNode: Any) -> None:
        """Show the result that the user chose, in the place of the one before."""
        from SAHLoRASegmenterLib.results import Result

        if Result.of(segmentationNode) is not None:
            self._takeResult(segmentationNode)

    def onCopyLog(self) -> None:
        self.ui.logText.selectAll()
        self.ui.logText.copy()

    def onProgress(self, event: dict) -> None:
        match event["event"]:
            case "stage":
                self.ui.progressBar.setValue(0)
                self.ui.statusLabel.text = _("Stage: {stage}").format(stage=event.get("stage", ""))
                self._log(self.ui.statusLabel.text)
            case "progress":
                self.ui.progressBar.setValue(round(1000 * event.get("fraction", 0)))
                self.ui.statusLabel.text = self._timeLeft(event)
            case "warning" | "note":
                self._log(f"{event.get('message', '')} {event.get('hint', '')}".strip())
            case "log":
                self._log(event["text"])

    def onFinished(self, run: Any) -> None:
        self.ui.cancelButton.enabled = False  # all that is left is to show it
        self.ui.progressBar.setValue(1000)
        self.ui.statusLabel.text = _("Done.")
        self.ui.resultLabel.text = self._summary(run)
        self._log(self.ui.resultLabel.text)
        self._takeResult(run.segmentationNode, then=self._endRun)

    def onError(self, error: Any) -> None:
        self._endRun()
        if error.code == "missing-package":
            self._installer.forget()
        self.ui.progressBar.setValue(0)
        self.ui.statusLabel.text = str(error)
        self._log(f"{error}\n{error.details}".strip())
        if error.code != "cancelled":
            slicer.util.errorDisplay(str(error), detailedText=error.details)

    def _summary(self, run: Any) -> str:
        nodes = (run.segmentationNode, run.measurementsNode, run.probabilityNode, run.disagreementNode)
        names = [node.GetName() for node in nodes if node is not None]
        return _("{segment}: {volume:.1f} mL. Added to the scene: {nodes}.").format(
            segment=run.segmentedResult.segmentName,
            volume=run.result.get("volume_ml", float("nan")),
            nodes=", ".join(names),
        )

    def _timeLeft(self, event: dict) -> str:
        seconds = event.get("eta_s")
        if seconds is None:
            return _("Stage: {stage}").format(stage=event.get("stage", ""))
        return _("Stage: {stage}, about {seconds:.0f} s left").format(
            stage=event.get("stage", ""), seconds=seconds
        )

    def _log(self, text: str) -> None:
        self.ui.logText.appendPlainText(text)

    def _setBusy(self, busy: bool) -> None:
        self._busy = busy
        self._refresh()

    def _takeResult(self, segmentationNode: Any, then: Callable[[], None] = lambda: None) -> None:
        """Choose a result and show it in slices and in 3D, then go on."""
        self._parameters.result = segmentationNode
        self._resultPanel.showAll(then)

    def _endRun(self) -> None:
        self._run = None
        self._setBusy(False)

    def _forgetScene(self) -> None:
        """End what runs and tell nothing of the scene's patients any more."""
        from SAHLoRASegmenterLib.results import removePages

        self._closeRuns()
        self._useParameters(None)
        self._batchPanel.clear()
        self.ui.statusLabel.text = self.ui.resultLabel.text = ""
        self.ui.progressBar.setValue(0)
        self.ui.logText.clear()
        removePages()

    def _closeRuns(self) -> None:
        self._batchPanel.close()
        self._devicePanel.close()
        if self._run is not None:
            self._run.close()
            self._endRun()
            self.ui.statusLabel.text = ""


class SAHLoRASegmenterTest(ScriptedLoadableModuleTest):
    """Runs in Slicer and in the harness, without torch: a fake child stands in for the command."""

    def setUp(self) -> None:
        import numpy as np

        from SAHLoRACoreLib.childprocess import pythonExecutable
        from SAHLoRACoreLib.testdoubles import fakechild

        slicer.mrmlScene.Clear(0)
        self.logic = SAHLoRASegmenterLogic(command=[pythonExecutable(), fakechild.__file__])
        hu = np.full((4, 20, 20), 30, dtype=np.int16)
        hu[1:3, 5:15, 5:15] = 70
        spacing = np.diag([-1.0, -1.0, 5.0, 1.0])
        self.volumeNode = slicer.util.addVolumeFromArray(hu, ijkToRAS=spacing, name="CT")

    def runTest(self) -> None:
        for test in (
            self.test_segmentation_and_measurements_come_to_the_scene,
            self.test_volume_of_the_outlined_voxels_is_measured,
            self.test_chosen_segmentation_gets_one_more_segment,
            self.test_another_threshold_needs_no_other_run,
            self.test_cancelled_run_leaves_the_scene_as_it_was,
        ):
            self.setUp()
            test()

    def test_segmentation_and_measurements_come_to_the_scene(self) -> None:
        run = self.logic.segment(self.volumeNode, waitForCompletion=True)

        self.assertEqual(run.segmentationNode.GetName(), "CT segmentation")
        self.assertEqual(run.segmentationNode.GetSegmentation().GetNthSegment(0).GetName(), "Hemorrhage")
        self.assertEqual(run.measurementsNode.GetCellText(0, 0), "Volume")
        self.assertIsNone(run.probabilityNode)

    def test_volume_of_the_outlined_voxels_is_measured(self) -> None:
        run = self.logic.segment(self.volumeNode, waitForCompletion=True)

        self.assertAlmostEqual(run.result["volume_ml"], 2 * 10 * 10 * 5.0 / 1000)

    def test_chosen_segmentation_gets_one_more_segment(self) -> None:
        first = self.logic.segment(self.volumeNode, waitForCompletion=True)
        second = self.logic.segment(self.volumeNode, None, first.segmentationNode, waitForCompletion=True)

        self.assertIs(second.segmentationNode, first.segmentationNode)
        self.assertEqual(first.segmentationNode.GetSegmentation().GetNumberOfSegments(), 2)

    def test_another_threshold_needs_no_other_run(self) -> None:
        from SAHLoRASegmenterLib.settings import SegmentSettings
        from SAHLoRASegmenterLib.threshold import LiveThreshold

        settings = SegmentSettings(keepProbability=True)
        result = self.logic.segment(self.volumeNode, settings, waitForCompletion=True).segmentedResult
        LiveThreshold(result).finish(0.9)

        self.assertEqual(result.threshold, 0.9)
        self.assertEqual(result.measurementsNode.GetCellText(0, 1), "0.00")

    def test_cancelled_run_leaves_the_scene_as_it_was(self) -> None:
        import os
        from unittest.mock import patch

        from SAHLoRACoreLib.childprocess import ChildFailedError

        before = slicer.mrmlScene.GetNumberOfNodes()
        with patch.dict(os.environ, {"SAHLORA_FAKE": "polite"}):
            run = self.logic.segment(self.volumeNode)
        run.cancel()

        with self.assertRaises(ChildFailedError):
            run.wait()
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
