"""How many parameters each method trains is told before anything is built, and grows evenly with the rank."""

from __future__ import annotations

import pytest

from helpers import events, sahlora
from sahlora.adapters.config import STANDARD, AdapterConfig
from sahlora.adapters.scope import count_methods, count_parameters
from sahlora.errors import UsageError
from sahlora.models.network import MultiViewUNet


def test_counts_are_those_of_the_formulas_at_every_rank() -> None:
    network = MultiViewUNet(2, 32)
    counts = count_methods(network, 4)["decoding"]
    assert (counts["lora-c"].parameters, counts["cp-lora"].parameters) == (6528, 2320)
    assert (counts["conv-lora"].parameters, counts["conv-dora"].parameters) == (19584, 19584 + 192)
    assert counts[STANDARD] == (101985, 0)
    for method, count in counts.items():
        config = AdapterConfig(method, 64, scope="decoding")
        assert count_parameters(network, config) == count.parameters + 60 * count.each_rank


def test_rank_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="ranks are whole numbers"):
        count_methods(MultiViewUNet(2, 4), 0)


def test_the_command_tells_people_and_programs() -> None:
    told = sahlora("adapters", "count", "--rank", "16")
    assert told.returncode == 0, told.stderr
    assert "the base has 400,545" in told.stdout
    assert any(line.split()[0] == "cp-lora" and "15,808" in line for line in told.stdout.splitlines()[1:])
    result = events(sahlora("adapters", "count", "--progress", "json").stdout)[-1]
    assert result["scopes"]["decoding"]["cp-lora"] == {"parameters": 3952, "each_rank": 988}
    assert result["scopes"]["all"]["standard"]["parameters"] == result["base"] == 400545
