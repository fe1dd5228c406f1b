# SPDX-License-Identifier: Apache-2.0
"""Which correction counts where several are of one image: two reviewers may differ, and nobody guesses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi.correction_record import check_time
from DIANetLib.acwi.corrections import Correction
from DIANetLib.errors import InputError

LATEST, CONSENSUS = "latest", "consensus"


@dataclass(frozen=True, eq=False)
class Chosen:
    """What counts of the corrections of an image.

    Attributes:
        correction: labels before and after.
        disputed: (k, j, i), where reviewers differ; None where one alone counts.
    """

    correction: Correction
    disputed: npt.NDArray[np.bool_] | None = None


def choose(corrections: Sequence[Correction], reviewers: str | None) -> list[Chosen]:
    """One correction per image.

    Of several by the same reviewer, the one that was finished last counts.

    Args:
        corrections: all that were found.
        reviewers: "latest" takes the one finished last; "consensus" keeps what all agree on and takes the
            rest for open; else the name of the reviewer whose
            corrections count. None refuses several reviewers of one image.

    Raises:
        InputError: several reviewers corrected one image and `reviewers` is None, nobody has that name, or
            their labels do not fit together.
    """
    names = sorted({correction.reviewer for correction in corrections})
    if reviewers not in (None, LATEST, CONSENSUS):
        if reviewers not in names:
            raise InputError(
                f"No correction is by {reviewers!r}; reviewers are {', '.join(names)}.",
                remedy="Give one of these names, latest or consensus.",
            )
        corrections = [c for c in corrections if c.reviewer == reviewers]
    groups: dict[str, dict[str, Correction]] = {}
    for correction in sorted(corrections, key=lambda c: check_time(c.finished, "finished")):
        groups.setdefault(correction.images[0].voxels_sha256, {})[correction.reviewer] = correction
    chosen: list[Chosen] = []
    for group in groups.values():
        several = list(group.values())
        if len(several) == 1:
            chosen.append(Chosen(several[0]))
        elif reviewers is None:
            raise InputError(
                f"The image {several[0].images[0].name} was corrected by several reviewers"
                f" ({', '.join(sorted(group))}), who may differ.",
                remedy="Say which counts: --reviewers latest, consensus or a name.",
            )
        else:
            last = max(several, key=lambda c: check_time(c.finished, "finished"))
            chosen.append(agreed(several, last) if reviewers == CONSENSUS else Chosen(last))
    return chosen


def agreed(several: Sequence[Correction], base: Correction) -> Chosen:
    """What several reviewers agree on; where they differ, the base's label before.

    Raises:
        InputError: their labels have other structures or lie on other grids.
    """
    names = " and ".join(c.reviewer for c in several)
    for other in several:
        same = [(s.value, s.key) for s in other.structures] == [(s.value, s.key) for s in base.structures]
        if not same or not other.after.geometry.same_grid(base.after.geometry, 1e-3):
            raise InputError(
                f"The corrections of {base.images[0].name} by {names} have other structures or grids, so"
                " there is no consensus.",
                remedy="Give --reviewers latest or a name.",
            )
    stack = np.stack([c.after.array for c in several])
    same_labels = (stack == stack[0]).all(axis=0)
    after = np.where(same_labels, base.after.array, base.before.array)
    identity = "+".join(sorted(c.id for c in several))
    both = replace(base, after=base.after.with_array(after), reviewer=names, id=identity)
    return Chosen(both, ~same_labels)
