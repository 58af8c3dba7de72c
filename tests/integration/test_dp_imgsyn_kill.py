"""DP-ImgSyn killed without a warning, in the middle of the images and of the student, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from unit.dp_imgsyn_runs import SMALL, fit, private_data

from dpforge.privacy.spec import PrivacySpec

LOOSE = PrivacySpec(target_epsilon=None, noise_multiplier=1.0)
KILLED = """
import os, signal, sys
from pathlib import Path
from unit.dp_imgsyn_runs import SMALL, fit, private_data
from dpforge.privacy.spec import PrivacySpec

asked = []
def stopping():
    asked.append(1)
    if len(asked) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return False

fit(SMALL, private_data(), Path(sys.argv[1]), spec=PrivacySpec(target_epsilon=None, noise_multiplier=1.0),
    stopping=stopping)
"""


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    asked = []
    folder = tmp_path_factory.mktemp("straight")
    run = fit(SMALL, private_data(), folder, spec=LOOSE, stopping=lambda: bool(asked.append(1)))
    return run, len(asked)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize(("before_the_end", "batches"), [(2, 2), (0, 3)])
def test_a_killed_run_keeps_its_batches_and_ends_as_if_nothing_had_happened(
    before_the_end, batches, straight, tmp_path
):
    run, moments = straight
    place = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(moments - before_the_end)]
    child = subprocess.run(command, cwd=place, env={**_environment(), "PYTHONPATH": place}, check=False)
    assert child.returncode == -signal.SIGKILL
    kept = sorted(path.name for path in (tmp_path / "synthesis").iterdir())
    assert kept == [f"{number:05d}" for number in range(batches)]
    resumed = fit(SMALL, private_data(), tmp_path, spec=LOOSE)
    assert not resumed.releases
    assert np.array_equal(resumed.fitted.images.pixels, run.fitted.images.pixels)
    for name, tensor in run.fitted.student.state_dict().items():
        assert torch.equal(resumed.fitted.student.state_dict()[name], tensor)


def _environment():
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "OMP_NUM_THREADS": "1"
    }
