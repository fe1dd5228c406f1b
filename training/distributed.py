# SPDX-License-Identifier: Apache-2.0
"""One process or several (`torchrun`): rank, device and precision of this process."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from DIANetLib.inference.memory import resolve_device


@dataclass(frozen=True)
class Context:
    """This process's place among its peers."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over processes."""
        if self.world == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=ids)

    def mean(self, value: Tensor) -> float:
        """Average of a scalar over processes."""
        if self.world > 1:
            value = value.clone()
            distributed.all_reduce(value)
            value = value / self.world
        return float(value)

    def average_gradients(self, module: nn.Module) -> None:
        """Average over processes the gradients of a module that is not wrapped."""
        if self.world > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.world

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; every process gets the same answer."""
        if self.world == 1:
            return flag
        value = torch.tensor([float(flag)], device=self.device)
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return bool(value.item())

    def barrier(self) -> None:
        """Wait for the others."""
        if self.world > 1:
            distributed.barrier()


def start(device: str = "auto") -> Context:
    """Join the process group that torchrun describes in the environment, if any.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        DeviceError: if there is no such device here.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = single_device(device)
    if chosen.type == "cuda" and world > 1:
        chosen = single_device(f"cuda:{local}")
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return Context(rank, world, chosen)


def single_device(name: str = "auto") -> torch.device:
    """The device meant by "auto" (a GPU that computes in CUDA where there is one), "cpu", "cuda:N", "mps".

    Raises:
        DeviceError: if there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return resolve_device(name)


def stop() -> None:
    """Leave the process group."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
