"""The hidden module SAHLoRACore: makes the code that both modules share importable."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
)


class SAHLoRACore(ScriptedLoadableModule):
    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SAHLoRA Core")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["SAHLoRA contributors"]
        parent.helpText = _("Code that SAHLoRA Segmenter and SAHLoRA Trainer share. It has no panel.")
        parent.acknowledgementText = ""
        parent.hidden = True
        slicer.app.connect("startupCompleted()", self.onStartupCompleted)
        slicer.app.connect("aboutToQuit()", self.onAboutToQuit)

    def onStartupCompleted(self) -> None:
        from SAHLoRACoreLib import sampledata, settingspanel
        from SAHLoRACoreLib.childprocess import removeAbandonedFolders

        sampledata.register()
        settingspanel.register()
        removeAbandonedFolders()

    def onAboutToQuit(self) -> None:
        from SAHLoRACoreLib.childprocess import closeAll

        closeAll()


class SAHLoRACoreTest(ScriptedLoadableModuleTest):
    """Runs in Slicer and in the harness, without torch."""

    def runTest(self) -> None:
        self.test_package_lies_beside_the_module_and_can_be_run_by_its_path()
        self.test_child_says_what_it_does_and_leaves_no_folder()

    def test_package_lies_beside_the_module_and_can_be_run_by_its_path(self) -> None:
        from pathlib import Path

        from SAHLoRACoreLib.childprocess import commandPrefix

        self.assertTrue((Path(commandPrefix()[-1]) / "__main__.py").is_file())

    def test_child_says_what_it_does_and_leaves_no_folder(self) -> None:
        from SAHLoRACoreLib.childprocess import ChildProcess, pythonExecutable
        from SAHLoRACoreLib.testdoubles import fakechild

        child = ChildProcess([pythonExecutable(), fakechild.__file__, "devices"])
        events: list = []
        child.progress.connect(events.append)
        child.start()
        result = child.wait()
        child.close()

        self.assertEqual(events[0]["event"], "stage")
        self.assertEqual(result["devices"][-1]["name"], "cpu")
        self.assertFalse(child.folder.exists())
