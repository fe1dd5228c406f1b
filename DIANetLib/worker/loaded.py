# SPDX-License-Identifier: Apache-2.0
"""Models in memory, loaded anew when their files change; torch is imported with the first of them."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from DIANetLib.errors import DependencyError
from DIANetLib.model_folders import METADATA, WEIGHTS

if TYPE_CHECKING:
    from DIANetLib.bundle import LoadedModel
    from DIANetLib.inference.engine import Segmenter

__all__ = ["Held", "HeldModels", "import_engine", "import_explain"]

_MOST = 3

_Stamp = tuple[tuple[int, int], ...]


@dataclass(eq=False)
class Held:
    """A model in memory, with what its files looked like.

    Attributes:
        model: The model.
        stamp: Of its files when it was loaded.
        segmenters: By the device asked for.
        localiser: The model's localiser, once it is loaded, with the stamp of its files.
    """

    model: LoadedModel
    stamp: _Stamp
    segmenters: dict[str, Segmenter] = field(default_factory=dict)
    localiser: tuple[LoadedModel, _Stamp] | None = None

    def is_current(self) -> bool:
        """Whether the files are those that were loaded."""
        parts = [(self.model, self.stamp), *([self.localiser] if self.localiser else [])]
        return all(_stamp(model.path) == stamp for model, stamp in parts)

    def segmenter(self, device: str) -> Segmenter:
        """The segmenter for a device, as a request names it, with all weights in memory.

        Raises:
            BundleError: The weights, or the localiser, cannot be used.
            DeviceError: There is no such device.
        """
        from DIANetLib.inference.engine import Segmenter

        segmenter = self.segmenters.get(device) or Segmenter(self.model, device=device)
        self.model.network(segmenter.device)
        if self.model.localiser is not None:
            localiser = cast("LoadedModel", segmenter.load_localiser())
            localiser.network(segmenter.device)
            self.localiser = localiser, _stamp(localiser.path)
        self.segmenters[device] = segmenter
        return segmenter

    def release(self) -> None:
        """Let go of the networks; they are loaded again when they are needed."""
        self.model.release()
        for segmenter in self.segmenters.values():
            if self.model.localiser is not None:
                cast("LoadedModel", segmenter.load_localiser()).release()


class HeldModels:
    """The models used latest."""

    def __init__(self) -> None:
        self._held: dict[Path, Held] = {}  # the latest used last

    def load(self, model: str) -> Held:
        """A model by its name or folder, its network not built yet; from memory if its files are unchanged.

        Raises:
            BundleError: There is no such model, or it cannot be used.
            DependencyError: torch or another package is missing.
        """
        import_engine()
        from DIANetLib.bundle import find_bundle, load_bundle

        path = find_bundle(model).resolve()
        held = self._held.pop(path, None)
        if held is None or not held.is_current():
            stamp = _stamp(path)
            held = Held(load_bundle(path), stamp)
        self._held[path] = held
        for old in list(self._held)[:-_MOST]:
            self._held.pop(old).release()
        return held

    def release(self) -> None:
        """Let go of all networks."""
        for held in self._held.values():
            held.release()
        free_memory()

    def clear(self) -> None:
        """Forget all models."""
        self._held.clear()
        free_memory()


def import_engine() -> None:
    """Import what segments, and with it torch.

    Raises:
        DependencyError: A package is missing or broken.
    """
    try:
        import DIANetLib.bundle
        import DIANetLib.inference.engine  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # a broken build of torch raises any of them
        raise _missing(error) from error


def import_explain() -> None:
    """Import what explains, and with it MONAI.

    Raises:
        DependencyError: A package is missing or broken.
    """
    try:
        import DIANetLib.acwi.explain  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise _missing(error) from error


def free_memory() -> None:
    """Give back what is not referred to any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _stamp(folder: Path) -> _Stamp:
    """When the files of a model were last written, and their lengths; empty if they are not there."""
    try:
        states = [(folder / file).stat() for file in (METADATA, WEIGHTS)]
    except OSError:
        return ()
    return tuple((state.st_mtime_ns, state.st_size) for state in states)


def _missing(error: Exception) -> DependencyError:
    remedy = (
        "Install DIANet's dependencies into the Python that the worker runs in; `dianet doctor` lists them."
    )
    if isinstance(error, ModuleNotFoundError) and error.name:
        return DependencyError(f"The Python package {error.name!r} is not installed.", remedy=remedy)
    lines = str(error).splitlines() or [type(error).__name__]
    return DependencyError(f"A Python package cannot be loaded: {lines[0].rstrip('.')}.", remedy=remedy)
