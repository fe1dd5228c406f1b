# SPDX-License-Identifier: Apache-2.0
"""Methods of telling how sure a segmentation is, as lists of passes whose probabilities are averaged.

One plain pass and its entropy; T samples with all that is random in the network (latent, path and channel
dropout); T samples of channel dropout alone (Gal and Ghahramani, ICML 2016); mirrored copies (Wang et al.,
Neurocomputing 338, 2019), by themselves and dealt to the samples; snapshots of one fit (Huang et al., ICLR
2017), and the mean of their weights (Izmailov et al., UAI 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from DIANetLib.errors import InputError
from training.compare_passes import SHIPPED, Kind, Pass

#: What every other method is compared with.
PLAIN = "plain"
#: The pass that is read by a head which was distilled from samples.
ONE_PASS = "one-pass"
#: Left and right, of (k, j, i).
LEFT_RIGHT = (2,)
#: Means of weights: of the snapshots, and of these and the shipped ones.
MEAN_OF_SNAPSHOTS, MEAN_OF_ALL = "mean-of-snapshots", "mean-of-all"
SAMPLES = (2, 5, 10, 20)
DROPOUT_SAMPLES = (5, 10)


@dataclass(frozen=True)
class Method:
    """A way to say how sure a segmentation is.

    Attributes:
        name: short.
        title: for people.
        passes: their probabilities are averaged.
        noise: whether the predicted noise of the logits (32) is integrated out.
    """

    name: str
    title: str
    passes: tuple[Pass, ...]
    noise: bool = True


def methods(snapshots: Sequence[str] = (), *, one_pass: bool = False) -> tuple[Method, ...]:
    """All methods, the plain pass first.

    Args:
        snapshots: names of the networks at the ends of the cycles, if there are any.
        one_pass: whether the model has a one-pass head.
    """
    mean = Pass()
    found = [
        Method(PLAIN, "one plain pass", (mean,), noise=False),
        Method("noise", "one plain pass, logit noise integrated out (32)", (mean,)),
    ]
    if one_pass:
        found.append(Method(ONE_PASS, "one plain pass, read by the one-pass head", (Pass(ONE_PASS),)))
    for count in DROPOUT_SAMPLES:
        found.append(
            Method(f"dropout-{count}", f"channel dropout alone, T = {count}", _drawn("dropout", count))
        )
    for count in SAMPLES:
        found.append(Method(f"samples-{count}", f"samples, T = {count}", _drawn("sample", count)))
    both = (mean, Pass(mirrored=LEFT_RIGHT))
    found.append(Method("mirror-2", "mirrored left-right, 2 passes", both))
    for count in (2, 10):
        dealt = tuple(
            Pass(kind="sample", sample=n, mirrored=LEFT_RIGHT if n % 2 else ()) for n in range(count)
        )
        found.append(
            Method(f"samples-mirrored-{count}", f"samples, every other mirrored, T = {count}", dealt)
        )
    if snapshots:
        ends = tuple(Pass(weights=name) for name in snapshots)
        found += [
            Method("snapshots", f"{len(ends)} snapshots", ends),
            Method("snapshots-and-shipped", f"{len(ends)} snapshots and the shipped weights", (mean, *ends)),
            Method(
                MEAN_OF_SNAPSHOTS, "mean of the snapshots' weights", (Pass(MEAN_OF_SNAPSHOTS),), noise=False
            ),
            Method(MEAN_OF_ALL, "mean of these and the shipped weights", (Pass(MEAN_OF_ALL),), noise=False),
        ]
    every = tuple(Pass(mirrored=axes) for n in range(4) for axes in combinations(range(3), n))
    found.append(Method("mirror-8", "mirrored along all axes, 8 passes", every))
    return tuple(found)


def chosen(names: Sequence[str] | None, known: Sequence[Method]) -> tuple[Method, ...]:
    """Methods by name, the plain one among them; None for all.

    Raises:
        InputError: a name is unknown.
    """
    if names is None:
        return tuple(known)
    wrong = sorted(set(names) - {method.name for method in known})
    if wrong:
        raise InputError(
            f"--methods names {', '.join(wrong)}, expected some of"
            f" {', '.join(method.name for method in known)}."
        )
    return tuple(method for method in known if method.name in names or method.name == PLAIN)


def weights_of(methods: Sequence[Method]) -> tuple[str, ...]:
    """Names of the networks that methods need beside the shipped one."""
    names = {one.weights for method in methods for one in method.passes}
    return tuple(sorted(names - {SHIPPED}))


def _drawn(kind: Kind, count: int) -> tuple[Pass, ...]:
    return tuple(Pass(kind=kind, sample=n) for n in range(count))
