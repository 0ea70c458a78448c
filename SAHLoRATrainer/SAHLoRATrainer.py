"""The module SAHLoRATrainer: adapts a model to a site's own cases, annotated where they are viewed."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
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


class SAHLoRATrainer(ScriptedLoadableModule):
    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SAHLoRA Trainer")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["SAHLoRACore"]
        parent.contributors = ["SAHLoRA contributors"]
        parent.helpText = _(
            "Adapts a model to a site's own scanners and patients, from a handful of annotated head CTs."
            " For research use only."
        )
        parent.helpText += self.getDefaultModuleDocumentationLink()
        parent.acknowledgementText = _(
            "The adapters follow Minoccheri et al., BMC Medical Imaging 26:58,"
            " doi 10.1186/s12880-025-02116-y."
        )


class SAHLoRATrainerLogic(ScriptedLoadableModuleLogic):
    """Trains adapters; works without a panel.

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
        from SAHLoRATrainerLib.parameters import SAHLoRATrainerParameterNode

        return SAHLoRATrainerParameterNode(super().getParameterNode())

    def train(self, cases: Sequence[Any], settings: Any = None, waitForCompletion: bool = False) -> Any:
        """Train an adapter in a child process and return the training, see `SAHLoRATrainerLib.training`.

        Parameters
        ----------
        cases : sequence of SceneCase or FileCase
            At least one of them held out.
        settings : TrainSettings, optional
            By default CP-LoRA of rank 4 on the shipped model.
        waitForCompletion : bool
            Return once the adapter is there, at ``training.run.adapter``; otherwise at once, and the
            training's signals tell the rest.

        Raises
        ------
        ValueError
            If the settings or the cases can't be used; the message says what to do.
        OSError
            If the run's folder can't be written.
        ChildFailedError
            If it failed while this waited.
        """
        from SAHLoRATrainerLib.runs import newRun
        from SAHLoRATrainerLib.settings import TrainSettings
        from SAHLoRATrainerLib.training import Training

        settings = settings or TrainSettings()
        valid, reason = settings.isValid()
        if not valid:
            raise ValueError(reason)
        sides = {case.heldOut for case in cases}
        if len(sides) < 2:
            raise ValueError(_("Give cases to train on and at least one that is held out."))
        return self._started(Training(self.command, newRun(settings), cases), waitForCompletion)

    def resume(self, run: Any, waitForCompletion: bool = False) -> Any:
        """Go on with a run that was paused or interrupted, as `train` does; raise ValueError if it can't."""
        from SAHLoRATrainerLib.training import Training

        if not run.isResumable:
            raise ValueError(_("This run can't go on: it is done, or another Slicer trains it."))
        return self._started(Training(self.command, run), waitForCompletion)

    def judge(self, run: Any, waitForCompletion: bool = False) -> Any:
        """Compare base and adapter of a run on its held-out cases, see `SAHLoRATrainerLib.judgement`.

        Raises
        ------
        ValueError
            If the run is not done.
        ChildFailedError
            If it failed while this waited.
        """
        from SAHLoRATrainerLib.judgement import Judging
        from SAHLoRATrainerLib.runs import DONE

        if run.state != DONE:
            raise ValueError(_("This run is not done."))
        return self._started(Judging(self.command, run), waitForCompletion)

    def _started(self, work: Any, waitForCompletion: bool) -> Any:
        work.start()
        if waitForCompletion:
            work.wait()
        return work


class SAHLoRATrainerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. Logic and installer can be given, so that the panel is tested without torch.

    Its `parts`, each a class in `SAHLoRATrainerLib`, share what is public here: `logic`, `parameters` and
    `cases` (None while the scene is closed), `ensureInstalled`, `occupy`, `release` and `refresh`. A part has
    ``use()`` (the parameters changed), ``refresh()`` (something else did) and ``close()`` (end what runs).
    """

    def __init__(self, parent: Any = None, logic: Any = None, installer: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = logic
        self.parameters: Any = None
        self.cases: Any = None
        self.occupation = ""  # what runs now, in words
        self._installer = installer
        self._guiTag: int | None = None
        self.parts: Any = None

    # ------------------------------------------------------------------------------------- life of the panel

    def setup(self) -> None:
        from SAHLoRATrainerLib.adapterpanel import AdapterPanel
        from SAHLoRATrainerLib.casespanel import CasesPanel
        from SAHLoRATrainerLib.crossvalpanel import CrossvalPanel
        from SAHLoRATrainerLib.judgementpanel import JudgementPanel
        from SAHLoRATrainerLib.sharepanel import SharePanel
        from SAHLoRATrainerLib.suggestpanel import SuggestPanel
        from SAHLoRATrainerLib.trainingpanel import TrainingPanel

        from SAHLoRACoreLib.installation import PackageInstaller

        ScriptedLoadableModuleWidget.setup(self)
        self.logic = self.logic or SAHLoRATrainerLogic()
        self._installer = self._installer or PackageInstaller()
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SAHLoRATrainer.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.parts = SimpleNamespace(
            cases=CasesPanel(self.ui, self),
            adapter=AdapterPanel(self.ui, self),
            training=TrainingPanel(self.ui, self),
            share=SharePanel(self.ui, self),
            judgement=JudgementPanel(self.ui, self),
            suggest=SuggestPanel(self.ui, self),
            crossval=CrossvalPanel(self.ui, self),
        )
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            self.addObserver(scene, event, self.onNodesChanged)
        self._useParameters(self.logic.getParameterNode())

    def cleanup(self) -> None:
        self._closeParts()
        self._useParameters(None)
        self.removeObservers()

    def enter(self) -> None:
        if self.parameters is None:
            self._useParameters(self.logic.getParameterNode())
        else:
            self._useParameters(self.parameters)  # models may have come, segments may have changed

    def exit(self) -> None:
        """Leave everything as it is: what runs goes on while another module is shown."""

    def onSceneStartClose(self, _caller: Any, _event: str) -> None:
        self._useParameters(None)

    def onSceneEndClose(self, _caller: Any, _event: str) -> None:
        self._useParameters(self.logic.getParameterNode())

    def onNodesChanged(self, _caller: Any, event: str) -> None:
        if slicer.mrmlScene.IsClosing() or slicer.mrmlScene.IsBatchProcessing():
            return
        self._offerCTs()
        if event == "NodeRemovedEvent":
            self.refresh()

    # ------------------------------------------------------------------------------------- for the parts

    def addCase(self, volumeNode: Any, segmentationNode: Any, segmentId: str) -> None:
        """Put a CT with its corrected outline into the table; the Segmenter calls this.

        Raises
        ------
        ValueError
            If a node is missing or there is no such segment.
        """
        if self.parameters is None:
            self._useParameters(self.logic.getParameterNode())
        self.cases.addNodes(volumeNode, segmentationNode, segmentId)

    def ensureInstalled(self) -> bool:
        """Make sure that the packages are there, asking before anything is installed.

        Events go on while that is found out, so the panel is occupied: a second click starts nothing.
        """
        from SAHLoRACoreLib.installation import ensureInstalled

        if self.occupation:
            return False
        self.occupy(_("The packages are being checked."))
        try:
            return ensureInstalled(self._installer, slicer.util.confirmOkCancelDisplay)
        finally:
            self.release()

    def occupy(self, occupation: str) -> None:
        """Say what runs now; nothing else is started until `release`."""
        self.occupation = occupation
        self.refresh()

    def release(self) -> None:
        """Say that nothing runs any more."""
        self.occupation = ""
        self.refresh()

    def refresh(self, _caller: Any = None, _event: str = "") -> None:
        """Show what changed."""
        for part in vars(self.parts).values():
            part.refresh()

    # ------------------------------------------------------------------------------------------- parts

    def _useParameters(self, parameters: Any) -> None:
        import vtk
        from SAHLoRATrainerLib.cases import CaseTable

        if self.parameters is not None:
            self.parameters.disconnectGui(self._guiTag)
            self.removeObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.refresh)
        self.parameters, self.cases = parameters, None
        if parameters is not None:
            self.cases = CaseTable(parameters)
            self._offerCTs()
            self._guiTag = parameters.connectGui(self.ui)
            self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.refresh)
        for part in vars(self.parts).values():
            part.use()
        self.refresh()

    def _offerCTs(self) -> None:
        """Offer the scene's CTs, and choose one if none is chosen."""
        from SAHLoRACoreLib.volumes import firstCT, offerPossibleCTs

        offerPossibleCTs(self.ui.caseVolumeSelector)
        if self.parameters is not None and self.parameters.caseVolume is None:
            self.parameters.caseVolume = firstCT()

    def _closeParts(self) -> None:
        for part in vars(self.parts).values():
            part.close()


class SAHLoRATrainerTest(ScriptedLoadableModuleTest):
    """Runs in Slicer and in the harness, without torch."""

    def setUp(self) -> None:
        import tempfile
        from dataclasses import replace

        import numpy as np
        from SAHLoRATrainerLib.testdoubles import fakecommand

        from SAHLoRACoreLib.childprocess import pythonExecutable
        from SAHLoRACoreLib.settings import Settings

        slicer.mrmlScene.Clear(0)
        self.logic = SAHLoRATrainerLogic(command=[pythonExecutable(), fakecommand.__file__])
        self.settings = Settings.load()
        self.folder = tempfile.TemporaryDirectory()
        replace(self.settings, dataFolder=self.folder.name).save()  # the user's runs stay as they are
        hu = np.full((4, 20, 20), 30, dtype=np.int16)
        spacing = np.diag([-1.0, -1.0, 5.0, 1.0])
        self.volumeNode = slicer.util.addVolumeFromArray(hu, ijkToRAS=spacing, name="CT")
        self.segmentationNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        self.segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(self.volumeNode)
        self.segmentID = self.segmentationNode.GetSegmentation().AddEmptySegment("blood", "Blood")
        mask = np.zeros(hu.shape, np.uint8)
        mask[1:3, 5:15, 5:15] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            mask, self.segmentationNode, self.segmentID, self.volumeNode
        )

    def tearDown(self) -> None:
        self.settings.save()
        self.folder.cleanup()

    def runTest(self) -> None:
        for test in (
            self.test_case_of_the_scene_is_in_the_table_once,
            self.test_training_and_judgement_of_cases_of_the_scene,
        ):
            self.setUp()
            try:
                test()
            finally:
                self.tearDown()

    def test_training_and_judgement_of_cases_of_the_scene(self) -> None:
        from SAHLoRATrainerLib.cases import SceneCase

        nodes = self.volumeNode, self.segmentationNode, self.segmentID
        cases = [SceneCase(*nodes), SceneCase(*nodes, heldOut=True)]
        training = self.logic.train(cases, waitForCompletion=True)
        judging = self.logic.judge(training.run, waitForCompletion=True)

        self.assertTrue(training.run.adapter.is_file())
        self.assertIn("better on 1 of 1 held-out cases", judging.verdict.sentence())

    def test_case_of_the_scene_is_in_the_table_once(self) -> None:
        from SAHLoRATrainerLib.cases import CaseTable

        table = CaseTable(self.logic.getParameterNode())
        for _time in range(2):
            table.addNodes(self.volumeNode, self.segmentationNode, self.segmentID)

        self.assertEqual([row.name for row in table.rows()], ["CT"])
        self.assertEqual(table.nodes(table.rows()[0].key), (self.volumeNode, self.segmentationNode))
