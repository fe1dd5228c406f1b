# SPDX-License-Identifier: Apache-2.0
"""Pictures to look at: what a classification looks at (29, 30), and reconstructions beside the clean image.

Sheets of held-out cases, a row each: the image, its class activation map and its Grad-CAM for the class that
was found; or the clean image, the one that was given, the restored one, and both errors on one scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from DIANetLib.acwi.cam import cam, class_gradcam
from DIANetLib.acwi.camera import upsampled
from DIANetLib.errors import InputError, OutputError
from DIANetLib.formats.colormap import color_table
from DIANetLib.inference.classify import whole_image_windows
from DIANetLib.network import DIANet
from training.datasets import Case, PreparedCase, load_case
from training.evaluate_classification import with_target
from training.evaluate_reconstruction import restore_case
from training.scoring_reconstruction import score_slices, shown
from training.trial import Trial, window_of

#: Pixels that the shorter side of a panel has at least, cases per sheet, and pixels above a panel for words.
_SIDE = 168
_CASES = 8
_CAPTION = 14

Picture = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


def write_pictures(trial: Trial, folder: Path) -> tuple[Path, ...]:
    """Write classification.png and a reconstruction-LEVEL.png per level, as far as the network has the heads.

    Raises:
        InputError: if it has neither head; a plain peer's classes are not explained.
        OutputError: if a picture cannot be written.
    """
    network = trial.network
    written = []
    if network.config.classification is not None and trial.config.baseline is None:
        rows = [_classification_row(trial, network, case) for case in _of_each_class(trial)]
        written.append(_save(_sheet(rows), folder / "classification.png"))
    if network.config.reconstruction is not None:
        levels: dict[str, list[list[Image.Image]]] = {}
        for case in trial.held_out[:_CASES]:
            for level, row in _reconstruction_rows(trial, network, case):
                levels.setdefault(level, []).append(row)
        for level, rows in levels.items():
            written.append(_save(_sheet(rows), folder / f"reconstruction-{level.replace(' ', '-')}.png"))
    if not written:
        raise InputError(
            f"there are pictures of DIANet's classifications and of reconstructions, got"
            f" {trial.config.name!r} with neither.",
            remedy="Leave out --pictures; `dianet segment` writes pictures of segmentations.",
        )
    return tuple(written)


def _of_each_class(trial: Trial) -> list[Case]:
    """The first held-out cases of each class, as many of each as there is room for."""
    cases = with_target(trial.held_out)
    classes = sorted({case.target for case in cases if case.target is not None})
    share = max(1, _CASES // max(1, len(classes)))
    return [case for number in classes for case in [c for c in cases if c.target == number][:share]]


def _classification_row(trial: Trial, network: DIANet, case: Case) -> list[Image.Image]:
    prepared = load_case(case, trial.reading)
    flat = network.config.spatial_dims == 2
    windows = whole_image_windows(network, prepared.image.shape[1:], window_of(trial.config))
    part = windows[len(windows) // 2]
    x = part.cut(torch.from_numpy(prepared.image)).unsqueeze(0).to(trial.device)
    x = x.squeeze(2) if flat else x
    available = None if all(prepared.available) else torch.tensor([prepared.available], device=trial.device)
    with torch.inference_mode():
        probabilities = network(x, available=available).classified.probabilities()[0]
    found = int(probabilities.argmax())
    maps = (
        cam(network, x, available=available)[found],
        class_gradcam(network, x, found, available=available),
    )
    valid = part.valid[1:] if flat else part.valid
    image = _upright(_plane(x[0, 0].cpu().numpy()[valid]), trial)
    names = [target.key for target in trial.config.data.targets]
    row = [_panel(_grey(image), names[case.target or 0])]
    words = (f"CAM: {names[found]} {float(probabilities[found]):.2f}", "Grad-CAM")
    for values, text in zip(maps, words, strict=True):
        row.append(_panel(_overlaid(image, _upright(_plane(_scaled(values, x)[valid]), trial)), text))
    return row


def _reconstruction_rows(
    trial: Trial, network: DIANet, case: Case
) -> Iterator[tuple[str, list[Image.Image]]]:
    prepared: PreparedCase = load_case(case, trial.reading)
    for found in restore_case(network, prepared, trial.config, seed=trial.seed):
        clean, given, restored = (
            shown(image[None], found.clean[None])[0]
            for image in (found.clean, found.observed, found.restored)
        )
        middle = clean.shape[1] // 2
        planes = [_upright(image[0, middle].numpy(), trial) for image in (clean, given, restored)]
        low, high = float(planes[0].min()), float(np.percentile(planes[0], 99.5))
        errors = [np.abs(plane - planes[0]) for plane in planes[1:]]
        most = max(float(errors[0].max()), 1e-6)
        captions = ["clean"]
        for image in (given, restored):
            score = next(score_slices(image[:, middle], clean[:, middle]), None)
            captions.append("" if score is None else f"{score.psnr_db:.2f} dB, SSIM {score.ssim:.3f}")
        row = [_panel(_grey(plane, low, high), text) for plane, text in zip(planes, captions, strict=True)]
        row += [_panel(_colored(error / most), "error") for error in errors]
        yield found.level, row


def _plane(image: FloatArray) -> FloatArray:
    """The middle plane (j, i) of an image (*S)."""
    return image[image.shape[0] // 2] if image.ndim == 3 else image


def _upright(plane: FloatArray, trial: Trial) -> FloatArray:
    """A plane as people look at it: anterior up, the patient's right on the left; radiographs as they are."""
    return plane[::-1, ::-1] if trial.config.preprocess.orientation == "RAS" else plane


def _grey(plane: FloatArray, low: float | None = None, high: float | None = None) -> Picture:
    least = float(plane.min()) if low is None else low
    most = float(plane.max()) if high is None else high
    values = np.clip((plane - least) / max(most - least, 1e-6), 0, 1)
    return np.repeat(np.round(255 * values).astype(np.uint8)[..., None], 3, axis=2)


def _colored(values: FloatArray) -> Picture:
    return np.asarray(color_table()[np.round(255 * np.clip(values, 0, 1)).astype(np.intp)])


def _overlaid(image: FloatArray, values: FloatArray) -> Picture:
    """The colours of a map over the grey image, the stronger the map the more of it."""
    weight = 0.7 * np.clip(values, 0, 1)[..., None]
    return np.round((1 - weight) * _grey(image) + weight * _colored(values)).astype(np.uint8)


def _scaled(raw: Tensor, x: Tensor) -> FloatArray:
    """A raw map (*S_L) on the image's grid, scaled to a maximum of 1."""
    up = upsampled(raw, x.shape[2:])
    return np.asarray((up / up.max().clamp_min(1e-6)).cpu().numpy())


def _panel(picture: Picture, caption: str) -> Image.Image:
    """A picture, whole numbers of times enlarged, under its caption."""
    times = max(1, math.ceil(_SIDE / min(picture.shape[:2])))
    image = Image.fromarray(picture).resize(
        (picture.shape[1] * times, picture.shape[0] * times), Image.Resampling.NEAREST
    )
    panel = Image.new("RGB", (image.width, image.height + _CAPTION))
    panel.paste(image, (0, _CAPTION))
    ImageDraw.Draw(panel).text((2, 1), caption, fill=(255, 255, 255))
    return panel


def _sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    width = max(sum(panel.width + 2 for panel in row) for row in rows)
    sheet = Image.new("RGB", (width, sum(row[0].height + 2 for row in rows)))
    top = 0
    for row in rows:
        left = 0
        for panel in row:
            sheet.paste(panel, (left, top))
            left += panel.width + 2
        top += row[0].height + 2
    return sheet


def _save(sheet: Image.Image, path: Path) -> Path:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(temporary, format="PNG")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}.") from error
    return path
