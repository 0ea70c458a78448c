"""What a user chooses for one training, and the command line it becomes."""

from __future__ import annotations

from dataclasses import dataclass

from slicer.i18n import tr as _

from sahlora.adapters.config import MAX_RANK, SCOPES
from sahlora.imaging.planes import VIEWS
from SAHLoRACoreLib.models import DEFAULT_MODEL
from SAHLoRACoreLib.settings import deviceFor

# The command's, in the panel's order: the one to begin with first.
METHODS = ("cp-lora", "lora-c", "conv-lora", "cp-dora", "dora-c", "conv-dora", "locon", "standard")
PRESETS = ("default", "quick", "paper")
TARGETS = ("as the model", "hemorrhage", "sah")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training.

    Parameters
    ----------
    name : str
        Name of the run and title on the adapter's card.
    model : str
        Name of an installed model, or the path of a model file; it stays as it is.
    method : str
        One of `METHODS`; ``standard`` trains the weights of the scope themselves.
    rank : int
        Rank of the adapter; not used by ``standard``.
    scope : str
        Part of the network that is adapted, one of `SCOPES`.
    views : tuple of str
        An adapter is trained for each.
    preset : str
        One of `PRESETS`.
    epochs : int
        Passes over all slices with blood; 0 as the preset says.
    learningRate : float
        Highest learning rate; 0 as the preset says.
    target : str
        What the segments outline: ``hemorrhage``, ``sah``, or as the model.
    seed : int
        Decides everything random.
    device : str
        auto, cpu, cuda, cuda:N or mps.
    """

    name: str = "site"
    model: str = DEFAULT_MODEL
    method: str = "cp-lora"
    rank: int = 4
    scope: str = "decoding"
    views: tuple[str, ...] = ("axial",)
    preset: str = "default"
    epochs: int = 0
    learningRate: float = 0.0
    target: str = TARGETS[0]
    seed: int = 0
    device: str = "auto"

    def isValid(self) -> tuple[bool, str]:
        """Return whether these settings can be run, and if not, what to do about it."""
        rules = {
            _("Choose a model."): bool(self.model),
            _("Give the run a name."): bool(self.name.strip()),
            _("Choose a method."): self.method in METHODS,
            _("Choose a rank from 1 to {most}; a rank of 0 trains nothing.").format(most=MAX_RANK): (
                self.method == "standard" or 1 <= self.rank <= MAX_RANK
            ),
            _("Choose a scope."): self.scope in SCOPES,
            _("Choose at least one view."): bool(self.views) and set(self.views) <= set(VIEWS),
            _("Choose a preset."): self.preset in PRESETS,
            _("Choose 0 epochs or more; 0 is as the preset."): self.epochs >= 0,
            _("Choose a learning rate below 1; 0 is as the preset."): 0 <= self.learningRate < 1,
            _("Choose what the segments outline."): self.target in TARGETS,
            _("Choose a seed of 0 or more."): self.seed >= 0,
        }
        reason = next((reason for reason, holds in rules.items() if not holds), "")
        return not reason, reason

    def arguments(self) -> list[str]:
        """Return the options of ``sahlora finetune`` for these settings."""
        options = ["--model", self.model, "--method", self.method, "--rank", str(max(1, self.rank))]
        options += ["--scope", self.scope, "--views", ",".join(self.views), "--preset", self.preset]
        options += ["--seed", str(self.seed), "--device", deviceFor(self.device), "--title", self.name]
        if self.epochs:
            options += ["--epochs", str(self.epochs)]
        if self.learningRate:
            options += ["--learning-rate", f"{self.learningRate:g}"]
        if self.target != TARGETS[0]:
            options += ["--target", self.target]
        return options

    def words(self) -> str:
        """Return method and rank in short, and the scope unless it is the usual one."""
        rank = "" if self.method == "standard" else f" {self.rank}"
        scope = "" if self.scope == SCOPES[0] else f", {self.scope}"
        return f"{self.method}{rank}{scope}"
