"""What is compared: configurations of method, rank and scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sahlora.adapters.config import METHODS, STANDARD, AdapterConfig
from sahlora.errors import UsageError
from sahlora.training.settings import TrainingSettings

NONE, THRESHOLD = "none", "threshold"
SHUFFLED = "shuffled-"
ADAPTERS = ("lora-c", "conv-lora", "cp-lora", "dora-c", "conv-dora", "cp-dora")
DEFAULT_METHODS = (NONE, THRESHOLD, STANDARD, *ADAPTERS)


@dataclass(frozen=True)
class Configuration:
    """One way to come from the base to a segmentation.

    Parameters
    ----------
    method : str
        ``none``: the base as it is. ``threshold``: `sahlora.evaluation.baseline.brain_threshold`, no network.
        ``standard`` or an adapter: trained. ``shuffled-`` before one of these: trained the same way on labels
        that belong to other slices, a control.
    rank : int, optional
        Of an adapter.
    scope : str, optional
        Of whatever is trained.
    """

    method: str
    rank: int | None = None
    scope: str | None = None

    @property
    def trained(self) -> str | None:
        """What is trained: an adapter's name, ``standard``, or None."""
        return None if self.method in (NONE, THRESHOLD) else self.method.removeprefix(SHUFFLED)

    @property
    def is_control(self) -> bool:
        """Whether it learns from shuffled labels."""
        return self.method.startswith(SHUFFLED)

    @property
    def is_adapted(self) -> bool:
        """Whether it learns from true labels."""
        return self.trained is not None and not self.is_control

    @property
    def is_adapter(self) -> bool:
        """Whether it learns an adapter from true labels."""
        return self.is_adapted and self.trained != STANDARD

    @property
    def adapter(self) -> AdapterConfig | None:
        """Settings of what is trained, None if nothing is."""
        if self.trained is None:
            return None
        config = AdapterConfig(self.trained, scope=self.scope or "")
        return config if self.rank is None else replace(config, rank=self.rank)

    def __str__(self) -> str:
        rank = "" if self.rank is None else f" r={self.rank}"
        return f"{self.method}{rank}{f' {self.scope}' if self.scope else ''}"


def make_grid(methods: Sequence[str], ranks: Sequence[int], scopes: Sequence[str]) -> list[Configuration]:
    """Combine methods, ranks and scopes; ``none`` comes first and always, since all is compared with it.

    Raises
    ------
    UsageError
        ``unknown-method``, ``bad-adapter-config``, or ``empty-grid`` if there is nothing to combine.
    """
    known = (*METHODS, STANDARD)
    for method in methods:
        if method not in (NONE, THRESHOLD) and method.removeprefix(SHUFFLED) not in known:
            raise UsageError(
                "unknown-method",
                f"There is no method “{method}”.",
                f"Use {', '.join((NONE, THRESHOLD, *known))}, or one that trains after “{SHUFFLED}”.",
            )
    if not (methods and ranks and scopes):
        raise UsageError("empty-grid", "Methods, ranks or scopes are empty.", "Name at least one of each.")
    found = [Configuration(NONE)]
    for method in methods:
        if method in (NONE, THRESHOLD):
            found.append(Configuration(method))
        elif method.removeprefix(SHUFFLED) == STANDARD:
            found += [Configuration(method, None, scope) for scope in scopes]
        else:
            found += [Configuration(method, rank, scope) for scope in scopes for rank in ranks]
    for configuration in found:
        _ = configuration.adapter  # refuses a rank out of bounds
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class LearningRates:
    """Peak learning rates: one for all, or the preset's; and others for a method, or a method at a rank.

    Parameters
    ----------
    default : float, optional
    special : mapping of str to float
        By ``method`` or ``method:rank``; controls follow the method they are a control of.
    """

    default: float | None
    special: Mapping[str, float]

    @classmethod
    def parse(cls, text: str | None) -> LearningRates:
        """Read e.g. ``"5e-3,standard=1e-3,cp-lora:64=2e-3"``.

        Raises
        ------
        UsageError
            ``bad-learning-rate``.
        """
        default, special = None, {}
        for part in text.split(",") if text else ():
            name, _, rate = part.strip().rpartition("=")
            try:
                value = float(rate)
            except ValueError:
                raise UsageError(
                    "bad-learning-rate",
                    f"“{part}” is no learning rate.",
                    "Write e.g. 5e-3, or 5e-3,standard=1e-3,cp-lora:64=2e-3.",
                ) from None
            if name:
                special[name] = value
            else:
                default = value
        return cls(default, special)

    def require_known(self, grid: Sequence[Configuration]) -> None:
        """Check that every rate named is one of the grid.

        Raises
        ------
        UsageError
            ``bad-learning-rate``.
        """
        names = {name for configuration in grid for name in self._names(configuration)}
        if unknown := sorted(self.special.keys() - names):
            raise UsageError(
                "bad-learning-rate",
                f"A learning rate is given for {', '.join(unknown)}, which is not compared here.",
                "Correct the name.",
            )

    def apply(self, configuration: Configuration, settings: TrainingSettings) -> TrainingSettings:
        """Return the settings with the rate of a configuration."""
        given = [self.special[name] for name in self._names(configuration) if name in self.special]
        rate = given[0] if given else self.default
        return settings if rate is None else replace(settings, learning_rate=rate)

    @staticmethod
    def _names(configuration: Configuration) -> tuple[str, ...]:
        if configuration.trained is None:
            return ()
        return (f"{configuration.trained}:{configuration.rank}", configuration.trained)
