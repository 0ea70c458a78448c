#!/usr/bin/env python3
"""Rebuild every model that is shipped, and what is said about them, from the folder named by SAHLORA_DATA.

    python Utilities/train_models.py WORK [--until STEP] [--threads N]

Each step is a command of this project, printed before it runs. What is done is not done again, and a step that
was stopped goes on where it was: the same command continues. On two cores with bf16 all of it takes some hours; with a GPU, less.

    ct-ich       volumes, labels and manifests of CT-ICH
    base-K       a base that never saw fold K, K from 0 to 4; base-0 is shipped as hemorrhage-base
    phantoms     30 simulated heads, 20 to train on and 10 to test on
    phantom-study  all adapters, the decoder, an HU threshold and a control on them
    sah-phantom  the adapter of the demo, shipped
    sah          SAH simulated into the blood-free patients; those of fold 0 are for testing
    sah-study    all adapters and the decoder on them
    sah-adapters the adapters that are shipped
    real-ct      every real scan, each with a base that never saw it
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ct_ich import read_folds

HERE = Path(__file__).parent
SAHLORA = (sys.executable, "-m", "sahlora")
FOLDS = range(5)
TEST_FOLD = 0
METHODS = "threshold,standard,lora-c,conv-lora,cp-lora,dora-c,conv-dora,cp-dora"
RATES = "5e-3,standard=1e-3"
QUICK = ("--preset", "quick", "--epochs", "3")
PHANTOMS_TO_TRAIN_ON = 20
SHIPPED_SAH = ("cp-lora", "conv-lora", "dora-c")
