# SPDX-License-Identifier: Apache-2.0
"""Arguments that the commands on images share, and what is made of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from DIANetLib.errors import InputError

if TYPE_CHECKING:
    from DIANetLib.inference.prediction import Box
    from DIANetLib.worker.reading import ImageSource

__all__ = ["add_image_arguments", "add_run_arguments", "asked", "image_sources", "region"]


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Images and what they are, model, and where results go."""
    parser.add_argument(
        "images",
        nargs="*",
        type=Path,
        metavar="IMAGE",
        help="NIfTI, NRRD or MetaImage file, a grey picture (PNG, JPEG), or a folder with a DICOM series; one"
        " per modality, in the order of the model or of --modalities",
    )
    parser.add_argument(
        "--modalities",
        nargs="+",
        default=[],
        metavar="NAME",
        help="what the images are, in their order, such as FLAIR T1; a model may do without some of its own."
        " Default: what the file names say, else the order of the model",
    )
    parser.add_argument(
        "--modality",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="an image by the name of its modality; may be repeated",
    )
    parser.add_argument(
        "--model", required=True, metavar="NAME|DIR", help="see `dianet models`, or a model folder"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output folder")


def add_run_arguments(parser: argparse.ArgumentParser, *, one_pass: bool = False) -> None:
    """How the network is run; `one_pass`: whether models may tell from one pass what samples would."""
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--samples",
        type=int,
        default=None if one_pass else 10,
        metavar="T",
        help="stochastic passes; more take longer and refine the uncertainty. Default: 0, one pass, where the"
        " model was made to tell its uncertainty from it, else 10"
        if one_pass
        else "stochastic passes (default: 10); 0 for one plain pass",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the stochastic passes (default: 0)")
    parser.add_argument("--series", metavar="UID", help="which series of a DICOM folder that holds several")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def asked(names: Sequence[str]) -> tuple[str, ...] | Literal["all", "none"]:
    """What `--explain` says: all, none, or which."""
    if list(names) == ["all"]:
        return "all"
    return "none" if list(names) == ["none"] else tuple(names)


def image_sources(options: argparse.Namespace) -> tuple[ImageSource, ...]:
    """The images that were named, by `--modality` and in their order.

    Raises:
        InputError: The names do not go with the images.
    """
    from DIANetLib.worker.reading import ImageSource

    names = [name for text in options.modalities for name in text.split(",") if name]
    if names and len(names) != len(options.images):
        count = len(options.images)
        raise InputError(
            f"--modalities names {len(names)} ({', '.join(names)}), expected one for each of {count}"
            f" image{'' if count == 1 else 's'}."
        )
    images = [
        ImageSource(path, name)
        for path, name in zip(options.images, names or [None] * len(options.images), strict=True)
    ]
    for text in options.modality:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise InputError(f"The modality {text!r} is not of the form NAME=PATH.")
        images.append(ImageSource(Path(path), name))
    return tuple(images)


def region(text: str | None) -> Box | Path | None:
    """What `--roi` says: a box, or the file of a mask.

    Raises:
        InputError: It is neither.
    """
    from DIANetLib.worker.reading import box_from_ras

    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        if Path(text).exists():
            return Path(text)
        raise InputError(
            f"The region of interest {text!r} is neither a file nor six numbers.",
            remedy="Give x1,x2,y1,y2,z1,z2 in mm, or the file of a mask.",
        ) from None
    return box_from_ras(numbers)
