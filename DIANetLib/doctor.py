# SPDX-License-Identifier: Apache-2.0
"""What this machine and installation can do, and what to do about each problem: `dianet doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from DIANetLib import __version__

__all__ = ["Check", "examine", "report"]

_PACKAGES = ("numpy", "scipy", "SimpleITK", "monai", "safetensors", "pydantic", "pillow", "rich")
#: Extra of the distribution -> the modules that it brings.
_EXTRAS = {"demo": ("nilearn",), "train": ("tensorboard", "tqdm", "nibabel")}
_LEAST_MEMORY_GB = 4.0
_LEAST_DISK_GB = 1.0
_GET_TORCH = "https://pytorch.org/get-started/locally"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What, in a word or two.
        text: What was found.
        remedy: What to do about it; None if it is fine.
    """

    name: str
    text: str
    remedy: str | None = None

    @property
    def problem(self) -> bool:
        """Whether something should be done."""
        return self.remedy is not None


def examine(output: Path | None = None) -> tuple[Check, ...]:
    """Look at everything; a check that fails itself becomes a problem, never an exception.

    Args:
        output: Folder where results would go; its disk is looked at.
    """
    torch = _import_torch()
    steps: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("Python", _python),
        ("torch", lambda: _torch(torch)),
        ("memory", _memory),
        ("packages", _packages),
        ("models", _models),
        ("disk", lambda: _disk(output or Path())),
    ]
    checks: list[Check] = []
    for name, step in steps:
        try:
            checks.extend(step())
        except Exception as error:
            checks.append(Check(name, f"could not be checked ({error})", "Please report this."))
    return tuple(checks)


def report(checks: tuple[Check, ...]) -> str:
    """The checks as lines, each problem followed by what to do."""
    lines = []
    for check in checks:
        lines.append(f"{'problem' if check.problem else 'ok':<8} {check.name}: {check.text}")
        if check.remedy is not None:
            lines.append(f"{'':<8} -> {check.remedy}")
    count = sum(check.problem for check in checks)
    lines.append("No problems." if count == 0 else f"{count} problem{'s' if count > 1 else ''}.")
    return "\n".join(lines)


def _python() -> Iterator[Check]:
    version = platform.python_version()
    text = f"{version} on {platform.system()} {platform.machine()}"
    old = sys.version_info[:2] < (3, 10)
    yield Check("Python", text, "Install Python 3.10 to 3.13." if old else None)
    yield Check("DIANet", f"{__version__}, {Path(__file__).resolve().parent}")


def _import_torch() -> ModuleType | str:
    """The module, or why it cannot be imported."""
    try:
        import torch
    except Exception as error:  # a broken build raises OSError, RuntimeError, ...
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return torch


def _torch(torch: ModuleType | str) -> Iterator[Check]:
    if isinstance(torch, str):
        yield Check("torch", f"cannot be imported ({torch})", f"Install PyTorch: {_GET_TORCH}")
        return
    cuda, hip = torch.version.cuda, torch.version.hip
    build = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPU"
    yield Check("torch", f"{torch.__version__}, {build} build, {torch.get_num_threads()} threads")
    cards = _nvidia_gpus()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            tight = free < 2 * 1024**3
            remedy = "Close programs that use the GPU, or use --device cpu." if tight else None
            yield Check(f"GPU cuda:{index}", f"{name}, {_gb(free)} of {_gb(total)} free", remedy)
    elif cards and not cuda:
        yield Check(
            "GPU",
            f"{', '.join(cards)} is here, but torch {torch.__version__} is a {build} build and cannot use it",
            f"Install a CUDA build of PyTorch: {_GET_TORCH}",
        )
    elif cards or cuda:
        seen = ", ".join(cards) if cards else "no NVIDIA GPU that works"
        expected = cards or os.environ.get("CUDA_VISIBLE_DEVICES")
        remedy = f"Update the NVIDIA driver for CUDA {cuda}, and see that $CUDA_VISIBLE_DEVICES names it."
        yield Check("GPU", f"{seen}; torch's CUDA {cuda} finds none", remedy if expected else None)
    elif torch.backends.mps.is_available():
        yield Check("GPU", "Apple GPU (--device mps)")
    else:
        yield Check("GPU", "none; DIANet runs on the CPU")


def _nvidia_gpus() -> list[str]:
    """Names that the driver lists, whatever torch can do."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _memory() -> Iterator[Check]:
    free, total = _memory_bytes()
    if free is None or total is None:
        yield Check("memory", "not known on this system")
        return
    remedy = f"Close other programs: at least {_LEAST_MEMORY_GB:g} GB should be free."
    yield Check(
        "memory",
        f"{_gb(free)} of {_gb(total)} free, {os.cpu_count()} CPU cores",
        remedy if free < _LEAST_MEMORY_GB * 1e9 else None,
    )


def _memory_bytes() -> tuple[int | None, int | None]:
    """Free and total RAM; None where the system does not say."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        pairs = (line.split(":", 1) for line in meminfo.read_text().splitlines())
        values = {name: int(value.split()[0]) * 1024 for name, value in pairs}
        return values.get("MemAvailable"), values.get("MemTotal")
    try:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
        return int(page * os.sysconf("SC_AVPHYS_PAGES")), int(page * pages)
    except (AttributeError, OSError, ValueError):
        return None, None


def _packages() -> Iterator[Check]:
    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Check("packages", ", ".join(found) or "none")
    if missing:
        yield Check("packages", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    for extra, modules in _EXTRAS.items():
        absent = [module for module in modules if find_spec(module) is None]
        state = (
            f'without {", ".join(absent)} (optional: pip install "dianet[{extra}]")'
            if absent
            else "installed"
        )
        yield Check(f"extra {extra}", state)


def _models() -> Iterator[Check]:
    from DIANetLib.bundle import list_bundles, search_paths

    entries = list_bundles(verify=True)
    for entry in entries:
        if entry.problem is not None:
            yield Check(f"model {entry.name}", entry.problem, f"Replace or remove {entry.path}.")
        elif entry.metadata is not None:
            needs = entry.metadata.dianet.localiser
            lost = needs is not None and needs.model not in {e.name for e in entries if e.problem is None}
            text = f"{entry.metadata.version}, weights verified, {entry.path}"
            if needs is not None and lost:
                text += f"; it needs the model {needs.model!r}, which is not usable here"
            yield Check(f"model {entry.name}", text, "Install that model too." if lost else None)
    if not entries:
        looked = ", ".join(map(str, search_paths())) or "no folder"
        yield Check("models", f"none in {looked}", "Set $DIANET_MODELS to a folder of model folders.")


def _disk(output: Path) -> Iterator[Check]:
    for name, folder in (("output", output), ("temporary files", Path(tempfile.gettempdir()))):
        existing = folder.resolve()
        while not existing.exists():
            existing = existing.parent
        free = shutil.disk_usage(existing).free
        text = f"{existing}, {_gb(free)} free"
        remedy = None
        if not os.access(existing, os.W_OK):
            text, remedy = f"{existing} is not writable", "Choose another folder or change its permissions."
        elif free < _LEAST_DISK_GB * 1e9:
            remedy = f"Make room: at least {_LEAST_DISK_GB:g} GB should be free."
        yield Check(f"disk for {name}", text, remedy)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
