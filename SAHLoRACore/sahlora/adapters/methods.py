"""The adapters: what each adds to the frozen weight of a convolution, beside its formula and its paper.

Every method sees the weight W as an ordinary convolution stores it, (Cout, Cin/groups, *kernel), and composes
W' = W + s·ΔW before the one convolution runs. The kernel is tiny against the activations, so an adapter in
weight space costs almost nothing, where a second branch would convolve the whole activation map again.

All start at ΔW = 0 exactly: an untouched adapter reproduces the base bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


class LowRank(nn.Module):
    """W' = W + s·ΔW, where subclasses say of which factors ΔW is made.

    Parameters
    ----------
    weight : Tensor
        W, (Cout, Cin/groups, *kernel); gives shape, dtype and device, and is not kept.
    rank : int
        r of the formulas below.
    scale : float
        s, for instance alpha/r.
    dropout : float
        Probability with which an element of ΔW is left out of a training step.
    """

    rank_axis: ClassVar[dict[str, int]]  # along which axis each factor grows with the rank
    zero_factor: ClassVar[str]  # the one that starts at zero; two zeros would kill every gradient

    def __init__(self, weight: Tensor, rank: int, scale: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.scale, self.dropout = tuple(weight.shape), scale, dropout
        for name, shape in self.shapes(self.shape, rank).items():
            self.register_parameter(name, nn.Parameter(weight.detach().new_zeros(shape)))
        self.initialize()

    @staticmethod
    def shapes(weight: Shape, rank: int) -> Shapes:
        """Return the shape of each factor for a weight of this shape."""
        raise NotImplementedError

    def initialize(self) -> None:
        """Draw A from Kaiming-uniform(√5), that is uniformly within ±1/√fan_in, and leave B at zero."""
        nn.init.kaiming_uniform_(self.get_parameter("A"), a=math.sqrt(5))

    def delta(self) -> Tensor:
        """Compose ΔW, (Cout, Cin/groups, *kernel)."""
        raise NotImplementedError

    @staticmethod
    def unfold(delta: Tensor) -> Tensor:
        """Return the matrix that the factors A and B multiply to, for methods that have these two."""
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        """Return W' = W + s·ΔW."""
        return torch.add(weight, F.dropout(self.delta(), self.dropout, self.training), alpha=self.scale)


def matrix_shape(weight: Shape) -> tuple[int, int]:
    """Unfold a kernel into a matrix: the first half of its axes beside Cout, the others beside Cin/groups."""
    c_out, c_in, *kernel = weight
    half = (len(kernel) + 1) // 2
    return c_out * math.prod(kernel[:half]), c_in * math.prod(kernel[half:])


# ---------------------------------------------------------------------------------------------- the methods


class LoRAC(LowRank):
    """LoRA-C: ΔW[o,i,h,w] = (B·A)[o·kh+h, i·kw+w], with B (Cout·kh × r) and A (r × Cin·kw).

    Ding et al. 2024, arXiv 2410.16954: one low-rank matrix for a whole layer. The unfolding of the kernel is
    this project's reading of it: permuted, because a raw view would be convLoRA at a k-th of the rank.
    """

    rank_axis: ClassVar = {"A": 0, "B": 1}
    zero_factor: ClassVar = "B"
    A: nn.Parameter
    B: nn.Parameter

    @staticmethod
    def shapes(weight: Shape, rank: int) -> Shapes:
        """A (r × Cin·kw), B (Cout·kh × r)."""
        rows, columns = matrix_shape(weight)
        return {"A": (rank, columns), "B": (rows, rank)}

    def delta(self) -> Tensor:
        """Compose ΔW from B·A, the first kernel axes taken from the rows, the others from the columns."""
        c_out, c_in, *kernel = self.shape
        half = (len(kernel) + 1) // 2
        product = (self.B @ self.A).view(c_out, *kernel[:half], c_in, *kernel[half:])
        return product.movedim(half + 1, 1)

    @staticmethod
    def unfold(delta: Tensor) -> Tensor:
        """Return the matrix B·A of a ΔW."""
        return delta.movedim(1, (delta.dim() - 1) // 2 + 1).reshape(matrix_shape(tuple(delta.shape)))


class ConvLoRA(LowRank):
    """convLoRA: ΔW = B·A read in W's shape, with B (Cout·k × r·k) and A (r·k × Cin·k).

    Aleem et al. 2024, arXiv 2402.04964; the tensors of loralib's ConvLoRA. Where a kernel's sides differ, the
    inner size is r·max(kernel).
    """

    rank_axis: ClassVar = {"A": 0, "B": 1}
    zero_factor: ClassVar = "B"
    A: nn.Parameter
    B: nn.Parameter

    @staticmethod
    def shapes(weight: Shape, rank: int) -> Shapes:
        """A (r·k × Cin·k), B (Cout·k × r·k)."""
        rows, columns = matrix_shape(weight)
        inner = rank * max(weight[2:])
        return {"A": (inner, columns), "B": (rows, inner)}

    def delta(self) -> Tensor:
        """Compose ΔW from the elements of B·A in their order."""
        return (self.B @ self.A).view(self.shape)

    @staticmethod
    def unfold(delta: Tensor) -> Tensor:
        """Return the matrix B·A of a ΔW."""
        return delta.reshape(matrix_shape(tuple(delta.shape)))


class CPLoRA(LowRank):
    """CP-LoRA: ΔW = Σ_r a_r ∘ b_r ∘ c_r ∘ d_r over Cout, Cin, kh, kw; one factor (size × r) for each axis.

    Minoccheri et al. 2026, doi 10.1186/s12880-025-02116-y; factors as in Lebedev et al. 2015,
    arXiv 1412.6553.
    """

    rank_axis: ClassVar = {f"factor_{axis}": 1 for axis in ("out", "in", "k1", "k2", "k3")}
    zero_factor: ClassVar = "factor_out"

    @staticmethod
    def shapes(weight: Shape, rank: int) -> Shapes:
        """One factor (size × r) for Cout, Cin and each kernel axis."""
        return {name: (size, rank) for name, size in zip(CPLoRA.rank_axis, weight, strict=False)}

    def initialize(self) -> None:
        """Leave the Cout factor at zero; draw the Cin factor like LoRA-C's A, the kernel factors ±1.

        Choice of this project, the paper does not state it: with small values on every axis the product of
        three would vanish at high rank; this way the first step's ‖ΔW‖ matches LoRA-C's.
        """
        _, inward, *kernel = self.parameters()
        bound = 1 / math.sqrt(matrix_shape(self.shape)[1])
        nn.init.uniform_(inward, -bound, bound)
        for factor in kernel:
            with torch.no_grad():
                factor.bernoulli_().mul_(2).sub_(1)

    def delta(self) -> Tensor:
        """Compose ΔW as a · (b ⊙ c ⊙ d)ᵀ with the column-wise Kronecker (Khatri-Rao) product ⊙."""
        outward, *others = self.parameters()
        product: Tensor = others[0]
        for factor in others[1:]:
            product = (product[:, None] * factor).flatten(0, 1)
        return (outward @ product.T).view(self.shape)


class LoCon(LowRank):
    """LoCon: a k×k convolution A from Cin to r channels, then a 1×1 convolution B to Cout, as one kernel.

    Hugging Face PEFT's and LyCORIS's form for convolutions; here to show that another method costs a class
    and a row.
    """

    rank_axis: ClassVar = {"A": 0, "B": 1}
    zero_factor: ClassVar = "B"
    A: nn.Parameter
    B: nn.Parameter

    @staticmethod
    def shapes(weight: Shape, rank: int) -> Shapes:
        """A (r × Cin × kh × kw), B (Cout × r)."""
        return {"A": (rank, *weight[1:]), "B": (weight[0], rank)}

    def delta(self) -> Tensor:
        """Compose ΔW[o] = Σ_r B[o,r]·A[r]."""
        return (self.B @ self.A.flatten(1)).view(self.shape)

    @staticmethod
    def unfold(delta: Tensor) -> Tensor:
        """Return the matrix B·A of a ΔW."""
        return delta.flatten(1)


# ------------------------------------------------------------------------------------------------------ DoRA


def filter_norms(weight: Tensor) -> Tensor:
    """Return the Euclidean norm of each output channel's filter, (Cout,)."""
    return torch.linalg.vector_norm(weight.flatten(1), dim=1)


class DoRA(nn.Module):
    """DoRA over any of the methods above: W' = m ⊙ V/‖V‖ with V = W + s·ΔW and one magnitude m a filter.

    Liu et al. 2024, arXiv 2402.09353; norm over (Cin, *kernel) as in Hugging Face PEFT. Computed as
    (m/‖V‖)·V, so that the fresh ratio is exactly 1 and the base comes back bit for bit. A filter of norm zero
    stays zero.

    Parameters
    ----------
    weight : Tensor
        W, whose filters' norms the magnitudes start from.
    direction : LowRank
        The method that composes V.
    detach_norm : bool
        Treat ‖V‖ as a constant in the backward pass, as the paper and PEFT do.
    """

    def __init__(self, weight: Tensor, direction: LowRank, detach_norm: bool = True) -> None:
        super().__init__()
        self.direction, self.detach_norm = direction, detach_norm
        self.magnitude = nn.Parameter(filter_norms(weight.detach()))

    def forward(self, weight: Tensor) -> Tensor:
        """Return W' = (m/‖V‖)·V."""
        adapted = self.direction(weight)
        norm = filter_norms(adapted.detach() if self.detach_norm else adapted)
        ratio = self.magnitude / torch.where(norm == 0, 1, norm)
        return ratio.view(-1, *[1] * (weight.dim() - 1)) * adapted


# --------------------------------------------------------------------------------------------- around them


class Replacement(nn.Module):
    """W' = a copy of W of one's own: what standard fine-tuning trains, or BatchNorm statistics that drift."""

    def __init__(self, name: str, value: Tensor) -> None:
        super().__init__()
        self.name = name
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, nn.Parameter(value.detach().clone()))
        else:
            self.register_buffer(name, value.detach().clone())

    def forward(self, value: Tensor) -> Tensor:
        """Return the own copy."""
        replacement = getattr(self, self.name)
        assert isinstance(replacement, Tensor)
        return replacement


class Transposed(nn.Module):
    """Any of the methods on a transposed convolution, whose weight is turned around and back."""

    def __init__(self, adapter: nn.Module, groups: int) -> None:
        super().__init__()
        self.adapter, self.groups = adapter, groups

    def forward(self, weight: Tensor) -> Tensor:
        """Return W' as the transposed convolution stores it."""
        return swap_channels(self.adapter(swap_channels(weight, self.groups)), self.groups)


def swap_channels(weight: Tensor, groups: int) -> Tensor:
    """Turn a transposed convolution's weight (Cin, Cout/g, *k) into (Cout, Cin/g, *k); its own inverse."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def swapped_shape(weight: Sequence[int], groups: int) -> Shape:
    """Return the shape that `swap_channels` gives."""
    c_in, c_out, *kernel = weight
    return (c_out * groups, c_in // groups, *kernel)
