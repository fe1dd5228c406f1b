# SPDX-License-Identifier: Apache-2.0
"""The four measurements of one case's maps, each a dictionary of numbers that JSON can hold.

Numbers are lists with one entry per structure, or per region, in the order in which they are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from DIANetLib.acwi.review import find_regions
from DIANetLib.acwi.window_maps import WindowMaps
from DIANetLib.inference.engine import Segmenter
from DIANetLib.inference.prediction import Box
from DIANetLib.network import DIANet
from training.config import TrainingConfig
from training.datasets import Case, labels_on_grid, prepare_case, read_case
from training.explanation_cascade import STAGES, randomised
from training.explanation_maps import CAMS, Shown, cam
from training.explanation_measures import (
    Map,
    Mask,
    centred,
    correlation,
    distance_mm,
    heat_share,
    points_at,
    rank_correlation,
    structural_similarity,
)
from training.explanation_perturb import Perturbed, PerturbSettings, areas, cube_order
from training.trial import named_volumes

#: Maps by method and class.
Maps = Mapping[tuple[str, int], Map]

TOLERANCE_MM = 3.0
NEAR_MM = 5.0
REGIONS = 3


@dataclass(frozen=True, eq=False)
class Place:
    """A region of the worklist, as it is explained.

    Attributes:
        value: class of the structure.
        mask: its voxels within the region's box, (k, j, i) on the network's grid.
    """

    value: int
    mask: Mask


def values_of(case: Shown) -> list[int]:
    """The classes that the case has and that were found in it."""
    return [int(v) for v in np.unique(case.found) if v and (case.reference == v).any()]


def pointing(case: Shown, maps: Maps, usual: Mapping[int, tuple[float, ...]]) -> dict[str, Any]:
    """Whether the maximum of each map lies within 3 mm of the true structure.

    Args:
        case: the case.
        maps: by method and class.
        usual: where the middle of each structure usually lies, as shares of the image's sizes.
    """
    found: dict[str, list[float]] = {}
    shape = case.reference.shape
    for value in sorted({value for _, value in maps}):
        distance = distance_mm(case.reference == value, case.spacing)
        near = distance <= TOLERANCE_MM
        row = {"chance": float(near.mean()), "centre": float(near[tuple(n // 2 for n in shape)])}
        place = tuple(int(share * n) for share, n in zip(usual[value], shape, strict=True))
        row["usual place"] = float(near[place])
        for method in sorted({method for method, _ in maps}):
            values = maps[method, value]
            row[method] = float(points_at(values, distance, TOLERANCE_MM))
            row[f"{method}, inside"] = float(points_at(values, distance, 0.0))
        for name, figure in row.items():
            found.setdefault(name, []).append(figure)
    return found


def cascade(
    network: DIANet, case: Shown, maps: Maps, others: Maps, seed: int
) -> dict[str, dict[str, list[float]]]:
    """Likeness of each map to that of randomised weights, and to the same structure's map of another case.

    With randomised weights the score is taken twice: over the voxels that the fitted network gave to the
    structure, and ("own") over those that the randomised network gives to it, as a user would be shown.

    Args:
        network: the fitted one.
        case: the case.
        maps: by method and class, of the fitted network.
        others: the same of another case.
        seed: of the weights.
    """
    found: dict[str, dict[str, list[float]]] = {}

    def note(method: str, stage: str, one: Map, other: Map) -> None:
        part = found.setdefault(method, {})
        part.setdefault(f"ssim {stage}", []).append(structural_similarity(one, other))
        part.setdefault(f"rank {stage}", []).append(rank_correlation(one, other))

    values = sorted({value for _, value in maps})
    for method in CAMS:
        for value in values:
            mine = maps[method, value]
            if (method, value) in others:
                note(method, "unrelated", mine, centred(others[method, value], mine.shape))
    for stage in STAGES:
        with randomised(network, stage, seed):
            window = WindowMaps(network, case.x)
            for method in CAMS:
                for value in values:
                    new = cam(window, case, method, value, case.found == value)
                    note(method, stage, maps[method, value], new)
                    own = cam(window, case, method, value, None)
                    note(method, f"{stage} own", maps[method, value], own)
    return found


def perturbation(
    network: DIANet, case: Shown, maps: Maps, settings: PerturbSettings, seed: int, *, rivals: bool = True
) -> dict[str, dict[str, list[Any]]]:
    """Deletion and insertion in the order of each map, and of its rivals.

    These are the prediction first, a random order, and nearness to the prediction.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    for value in sorted({value for _, value in maps}):
        generator = np.random.default_rng((seed, value))
        perturbed = Perturbed(network, case, value, settings)
        orders: dict[str, Map] = {method: values for (method, of), values in maps.items() if of == value}
        if rivals:
            orders["prediction"] = (case.found == value).astype(np.float32)
            orders["random"] = np.zeros(case.found.shape, np.float32)
            orders["nearness"] = -distance_mm(case.found == value, case.spacing)
        for name, values in orders.items():
            curves = perturbed.curves(cube_order(values, settings.edge, generator))
            part = found.setdefault(name, {})
            for kind, area in areas(curves, settings.levels).items():
                part.setdefault(kind, []).append(area)
                part.setdefault(f"{kind} curve", []).append(list(getattr(curves, kind)))
    return found


def regions(
    network: DIANet, case: Shown, maps: Maps, places: Iterable[Place]
) -> dict[str, dict[str, list[float]]]:
    """How maps of single regions differ from the structure's, and from each other."""
    found: dict[str, dict[str, list[float]]] = {}
    listed = list(places)
    window = WindowMaps(network, case.x)
    for method in CAMS:
        part: dict[str, list[float]] = {"to structure": [], "near": [], "more near": [], "between": []}
        earlier: list[tuple[int, Map]] = []
        for place in listed:
            mine, whole = cam(window, case, method, place.value, place.mask), maps[method, place.value]
            near = distance_mm(place.mask, case.spacing) <= NEAR_MM
            part["to structure"].append(correlation(mine, whole))
            part["near"].append(heat_share(mine, near))
            part["more near"].append(heat_share(mine, near) - heat_share(whole, near))
            part["between"] += [correlation(mine, other) for value, other in earlier if value == place.value]
            earlier.append((place.value, mine))
        found[method] = part
    return found


def worklist_places(
    engine: Segmenter, case: Case, shown: Shown, config: TrainingConfig, *, samples: int, seed: int
) -> list[Place]:
    """The first regions of the product's worklist that a structure which the case has reaches into."""
    source = read_case(case, config.data)
    prepared = prepare_case(source, config).prepared
    assert prepared is not None  # it was read just now
    found = engine.segment(named_volumes(source, config), samples=samples, seed=seed)
    labels = labels_on_grid(found.labels, prepared)
    k, j, i = np.indices(labels.shape)
    points = prepared.geometry.index_to_world(np.stack([i, j, k], axis=-1).astype(np.float64))
    known = {s.key: s.value for s in found.structures if s.value in values_of(shown)}
    places: list[Place] = []
    for region in find_regions(found.error_probability, found.labels, found.structures, threshold=0.2):
        box = Box(region.lo, region.hi).contains(points)
        for key in region.structures[:1]:
            mask = (box & (labels == known.get(key, -1)))[shown.part]
            if mask.any() and len(places) < REGIONS:
                places.append(Place(known[key], mask))
    return places
