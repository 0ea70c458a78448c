"""The module SAHLoRATrainer: says how to adapt a model to a site's own cases with the command."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)


class SAHLoRATrainer(ScriptedLoadableModule):
    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SAHLoRA Trainer")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["SAHLoRACore"]
        parent.contributors = ["SAHLoRA contributors"]
        parent.helpText = _(
            "Tells how to adapt a model to a site's own scanners and patients. For research use only."
        )
        parent.helpText += self.getDefaultModuleDocumentationLink()
        parent.acknowledgementText = _(
            "The adapters follow Minoccheri et al., BMC Medical Imaging 26:58,"
            " doi 10.1186/s12880-025-02116-y."
        )


def finetuneCommand() -> str:
    """Return the command line that fine-tunes with this installation's Python and package, ready to paste."""
    from SAHLoRACoreLib.childprocess import commandPrefix

    words = [*commandPrefix(), "finetune", "--help"]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


class SAHLoRATrainerWidget(ScriptedLoadableModuleWidget):
    """The panel: an explanation and a command to copy."""

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SAHLoRATrainer.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        self.ui.explanationLabel.text = _(
            'In this version a model is adapted with the command "sahlora finetune", not in this panel.'
            " Save your CTs and the segmentations you made in the Segment Editor, and run the command"
            " below in a terminal; it explains its options."
        )
        self.ui.commandEdit.text = finetuneCommand()
        self.ui.commandEdit.setCursorPosition(0)
        self.ui.copyButton.connect("clicked(bool)", self.onCopy)

    def onCopy(self) -> None:
        self.ui.commandEdit.selectAll()
        self.ui.commandEdit.copy()


class SAHLoRATrainerTest(ScriptedLoadableModuleTest):
    """Runs in Slicer and in the harness, without torch."""

    def runTest(self) -> None:
        self.test_command_runs_the_package_of_this_installation()

    def test_command_runs_the_package_of_this_installation(self) -> None:
        from SAHLoRACoreLib.childprocess import commandPrefix

        for word in [*commandPrefix(), "finetune"]:
            self.assertIn(word, finetuneCommand())
