"""What to adapt, and how: the settings of an adapter and the names they are made of, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from sahlora.errors import UsageError

if TYPE_CHECKING:
    from sahlora.adapters.methods import LowRank, Shape, Shapes

STANDARD = "standard"  # fine-tuning of the parameters themselves, behind the same call

SCALINGS = ("alpha/rank", "rslora")

MAX_RANK = 4096


class Method(NamedTuple):
    """Which ΔW, by its class in `sahlora.adapters.methods`, and whether DoRA is over it."""

    form: str
    dora: bool = False

    @property
    def delta(self) -> type[LowRank]:
        """The class that composes ΔW; the first use loads torch."""
        from sahlora.adapters import methods

        return getattr(methods, self.form)

    def shapes(self, weight: Shape, rank: int) -> Shapes:
        """Return the shape of each trainable tensor for a weight of this shape."""
        return self.delta.shapes(weight, rank) | ({"magnitude": weight[:1]} if self.dora else {})


METHODS: dict[str, Method] = {
    "lora-c": Method("LoRAC"),
    "conv-lora": Method("ConvLoRA"),
    "cp-lora": Method("CPLoRA"),
    "dora-c": Method("LoRAC", dora=True),
    "conv-dora": Method("ConvLoRA", dora=True),
    "cp-dora": Method("CPLoRA", dora=True),
    "locon": Method("LoCon"),
}

SCOPES = ("decoding", "encoding", "deep", "shallow", "all")
"""Parts of a `sahlora.models.network.MultiViewUNet` that can be adapted alone; any network has ``all``."""


@dataclass(frozen=True)
class AdapterConfig:
    """What to adapt, and how.

    Parameters
    ----------
    method : str
        A row of `METHODS`, or ``"standard"``: weights, biases and norms of the scope are trained themselves.
    rank : int
        r of the method's formula.
    alpha : float, optional
        Numerator of the scale s; None takes each layer's rank, so that a rank sweep changes the rank only.
    scaling : str
        ``"alpha/rank"``, or ``"rslora"`` for alpha/√rank.
    scope : str
        A part that the network names in ``scopes()``, e.g. ``"decoding"``, or ``"all"``: adapters then act on
        every convolution in it whose kernel is larger than one voxel. Otherwise layer-name patterns (fnmatch)
        separated by commas, e.g. ``"ups.*,head.0"``, which name convolutions of any kernel.
    ranks, alphas : mapping of str to int, float
        Other ranks and alphas for layers whose name matches a pattern; the first match counts.
    dropout : float
        Probability with which an element of ΔW is left out of a training step.
    detach_norm : bool
        DoRA's norm is a constant in the backward pass.
    adapt_batchnorm_statistics : bool
        Let the running statistics of every norm drift in training and be part of the adapter, as in the
        published pipeline; otherwise norms stay in evaluation mode, whatever the training loop does.

    Raises
    ------
    UsageError
        ``bad-adapter-config`` if a value is out of its range.
    """

    method: str = "cp-lora"
    rank: int = 4
    alpha: float | None = None
    scaling: str = "alpha/rank"
    scope: str = "decoding"
    ranks: dict[str, int] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)
    dropout: float = 0.0
    detach_norm: bool = True
    adapt_batchnorm_statistics: bool = False

    def __post_init__(self) -> None:
        checks = {
            f"method must be one of {', '.join((*METHODS, STANDARD))}": self.method in (*METHODS, STANDARD),
            f"ranks are whole numbers from 1 to {MAX_RANK}": all(
                map(_is_rank, (self.rank, *self.ranks.values()))
            ),
            "alphas are positive numbers": all(
                _is_number(a) and 0 < a < math.inf for a in (*self.alphas.values(), *_given(self.alpha))
            ),
            f"scaling must be one of {', '.join(SCALINGS)}": self.scaling in SCALINGS,
            "dropout is a probability below 1": _is_number(self.dropout) and 0 <= self.dropout < 1,
        }
        for rule, holds in checks.items():
            if not holds:
                raise UsageError(
                    "bad-adapter-config", f"This adapter can't be built: {rule}.", "Change that value."
                )

    def rank_of(self, layer: str) -> int:
        """Return the rank at this layer."""
        return next((rank for pattern, rank in self.ranks.items() if fnmatchcase(layer, pattern)), self.rank)

    def scale_of(self, layer: str) -> float:
        """Return s at this layer."""
        rank = self.rank_of(layer)
        alpha = next((a for pattern, a in self.alphas.items() if fnmatchcase(layer, pattern)), self.alpha)
        numerator = rank if alpha is None else alpha
        return numerator / (rank if self.scaling == "alpha/rank" else math.sqrt(rank))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_RANK


def _given(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)
