# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.data import default_collate

from DIANetLib.network import DIANet
from Testing.training.tiny import deterministic, load_all, settings, write_config
from training.augment import PatchStream
from training.batch import Reader
from training.checkpoint import load_checkpoint
from training.config import TrainingConfig
from training.datasets import find_cases, split_cases
from training.loop import learning_rate
from training.objective import Objective

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3

# What `python -m training` does, with each rank's final weights kept.
SCRIPT = """
import os, sys
import torch
import training.fit_state
from training.__main__ import main

made = []
build = training.fit_state.build_model

def recorded(config):
    made.append(build(config))
    return made[-1]

training.fit_state.build_model = recorded
torch.set_num_threads(1)
status = main(sys.argv[2:])
torch.save(made[0].state_dict(), os.path.join(sys.argv[1], f"rank{os.environ['RANK']}.pt"))
sys.exit(status)
"""


def test_two_processes_end_with_the_weights_that_averaged_gradients_give(data: Path, tmp_path: Path):
    plain = deterministic()
    changes = {
        "network": plain.network.model_dump(mode="json"),
        "optimiser": {**settings()["optimiser"], "steps": STEPS, "batch": 1},
        "validate_every": STEPS,
    }
    file = write_config(tmp_path / "c.yaml", **changes)
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [str(tmp_path / "script.py"), str(tmp_path), "fit", str(file), "--data", str(data)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    done = subprocess.run(
        [*launcher, *command, "--output", str(tmp_path / "out"), "--device", "cpu"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )

    assert done.returncode == 0, done.stderr[-6000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    expected = _by_hand(deterministic(**changes), data)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0)
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    assert load_checkpoint(tmp_path / "out" / "checkpoint.pt").step == STEPS


def _by_hand(config: TrainingConfig, data: Path) -> dict[str, torch.Tensor]:
    """One process that averages the gradients of two patches per step."""
    split = split_cases([case.name for case in find_cases(data)], config.data, 0)
    cases = [case for case in load_all(data, config) if case.name in split.train]
    stream = PatchStream(cases, config.patch_kji, config.augment, seed=config.seed, first=0, count=2 * STEPS)
    torch.manual_seed(config.seed)
    model = DIANet(config.network).train()
    rules = config.optimiser
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=rules.weight_decay)
    objective = Objective(config.objective)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = learning_rate(rules, step)
        optimiser.zero_grad()
        for number in (2 * step, 2 * step + 1):
            patch = stream[number]
            batch = Reader(torch.device("cpu"))(default_collate([patch]))
            loss = objective(model(batch.images), batch).total
            (loss / 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), rules.gradient_clip)
        optimiser.step()
    return model.state_dict()
