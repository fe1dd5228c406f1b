# SPDX-License-Identifier: Apache-2.0
"""What a client and the worker say to each other: frozen dataclasses, one JSON object a line (`codec`).

Requests go to the worker's standard input, events come from its standard output, logs from its standard
error. Every line of the worker starts with the character RS (as in RFC 7464), so that what a library prints
there can be told apart. Volumes do not travel in the lines: a `SharedVolume` names a file of the exchange
folder (`DIANetLib.worker.exchange`).

Each request has an `id` that its client chose; every event but `Hello` carries the id of its request. A
request ends with exactly one `Result`, `Failed` or `Cancelled`; any number of `Progress` may come before.

Ownership of files: a client writes the files of a request and may delete them once the request has ended.
Files that a `Result` names belong to the client from then on; the worker deletes what a request without a
`Result` has left.

Standard library only: this runs in Slicer's own process, where nothing needs to be installed yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "KEPT_RESULTS",
    "PROTOCOL_VERSION",
    "RECORD_SEPARATOR",
    "BoxLPS",
    "Cancel",
    "Cancelled",
    "CodeInfo",
    "DeviceEstimate",
    "Doctor",
    "DoctorReport",
    "Done",
    "Estimate",
    "Estimated",
    "Event",
    "Explain",
    "Explained",
    "Failed",
    "Hello",
    "LayerKind",
    "ListModels",
    "MapFile",
    "ModalityInfo",
    "ModelInfo",
    "ModelList",
    "Payload",
    "Progress",
    "Request",
    "Result",
    "Review",
    "ReviewOptions",
    "Reviewed",
    "Segment",
    "Segmented",
    "SharedVolume",
    "Shutdown",
    "StructureInfo",
    "StructureSummary",
    "Unload",
]

#: Both sides must speak the same version; a worker says its own in `Hello`.
PROTOCOL_VERSION = 2
#: Results that a worker keeps for `Explain` and `Review`, the latest ones.
KEPT_RESULTS = 3
#: First character of every line that the worker sends.
RECORD_SEPARATOR = "\x1e"

LayerKind = Literal[
    "total", "aleatoric", "epistemic", "heteroscedastic", "error", "variance", "gradcam", "attention", "path"
]
Triple = tuple[float, float, float]
Sizes = tuple[int, int, int]


# --- parts of messages ---


@dataclass(frozen=True)
class SharedVolume:
    """A volume in a file of the exchange folder: raw voxels in (k, j, i) order, little-endian.

    Attributes:
        file: Name of the file in the exchange folder, without any folder.
        dtype: Voxel type as numpy writes it, such as `"<f4"`, `"<i2"`, `"|u1"`.
        size: Voxels of the whole volume along i, j, k.
        spacing: mm along i, j, k.
        origin: LPS mm of the centre of voxel (0, 0, 0).
        direction: The (3, 3) direction row by row; column a is the LPS unit vector along index axis a.
        name: Name for people.
        modality: Name of the modality, where known.
        frame_of_reference: DICOM frame of reference UID, where known.
        part: First voxel (i, j, k) and size (i, j, k) of the box that the file holds, where it is not the
            whole volume; voxels outside are 0.
    """

    file: str
    dtype: str
    size: Sizes
    spacing: Triple
    origin: Triple
    direction: tuple[float, ...]
    name: str = ""
    modality: str | None = None
    frame_of_reference: str | None = None
    part: tuple[int, ...] | None = None


@dataclass(frozen=True)
class BoxLPS:
    """An axis-aligned box, LPS mm.

    Attributes:
        lo: Corner with the smallest coordinates.
        hi: Corner with the largest coordinates.
    """

    lo: Triple
    hi: Triple


@dataclass(frozen=True)
class ReviewOptions:
    """How low-confidence regions are looked for; see `DIANetLib.acwi.review.find_regions`.

    Attributes:
        threshold: Error probability from which on a voxel counts, above 0 and below 1.
        minimum_mm3: Smaller regions are left out.
        maximum: Most regions listed.
        extent_mm: Greatest extent of one region, mm.
    """

    threshold: float = 0.2
    minimum_mm3: float = 10.0
    maximum: int = 20
    extent_mm: float = 15.0


@dataclass(frozen=True)
class CodeInfo:
    """A coded term (DICOM PS3.3 section 8.8).

    Attributes:
        scheme: Coding scheme designator, such as `"SCT"`.
        value: Code value.
        meaning: Code meaning.
    """

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class StructureInfo:
    """What one value of a labelmap stands for; the fields of `DIANetLib.structures.Structure`.

    Attributes:
        value: Value in the labelmap.
        key: Name for files and programs.
        name: Name for people.
        color: Red, green, blue, 0 to 255.
        category: Coded category.
        type: Coded type.
        modifier: Coded modifier, usually a side.
    """

    value: int
    key: str
    name: str
    color: Sizes
    category: CodeInfo
    type: CodeInfo
    modifier: CodeInfo | None = None


@dataclass(frozen=True)
class ModalityInfo:
    """One input of a model.

    Attributes:
        name: Name of the modality, such as `"T1"`.
        required: Whether the model needs it.
        aliases: Other names of it.
    """

    name: str
    required: bool = True
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelInfo:
    """What a model folder says of itself.

    Attributes:
        name: Name of the model.
        path: Its folder.
        version: Version of the model.
        description: What it does, a sentence or two.
        intended_use: What it is meant for, and what not.
        modalities: Its inputs, in order.
        structures: What it finds, in order; where sides are told apart, a result has each once per side.
            Empty for a model that does not segment.
        classes: Names of the classes that it tells whole images apart by, in order; usually none.
        sides: Whether it tells left and right apart.
        licence: Name of the licence of its weights.
        size_bytes: Size of its weights.
        localiser: Model that finds the region it looks at, if it needs one.
        problem: Why it cannot be used; None if nothing is wrong.
    """

    name: str
    path: str
    version: str = ""
    description: str = ""
    intended_use: str = ""
    modalities: tuple[ModalityInfo, ...] = ()
    structures: tuple[StructureInfo, ...] = ()
    classes: tuple[str, ...] = ()
    sides: bool = False
    licence: str = ""
    size_bytes: int = 0
    localiser: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class MapFile:
    """A map of a result.

    Attributes:
        kind: What it shows. `"error"` is the calibrated probability that the label is wrong, `"path"` the
            number of the path through the network that counts most, from 1 on (`Segmented.paths`).
        structure: Key of the structure that it belongs to, for the kinds that have one per structure.
        volume: float32 (whole numbers for `"path"`), on the grid of the first input.
    """

    kind: LayerKind
    structure: str | None
    volume: SharedVolume


@dataclass(frozen=True)
class StructureSummary:
    """Numbers of one structure of a result.

    Attributes:
        key: The structure.
        volume_ml: Volume in ml.
        confidence: Mean calibrated probability over its voxels, 0 to 1; None if it is empty.
        expected_dice: Dice to be expected, 0 to 1; None if it is empty.
        dice_low: Lower end of the Dice's 90 % interval; None where there is none.
        dice_high: Upper end of it; None where there is none.
    """

    key: str
    volume_ml: float
    confidence: float | None
    expected_dice: float | None
    dice_low: float | None = None
    dice_high: float | None = None


@dataclass(frozen=True)
class DeviceEstimate:
    """What a run would need on a device.

    Attributes:
        device: As a request names it: `"cpu"`, `"cuda:0"`, `"mps"`.
        description: Name for people.
        needed_bytes: Memory that the run is expected to take at its peak, with the window that fits.
        free_bytes: Free memory there, where known.
        window: Voxels (i, j, k) that the network would read at a time.
        fits: Whether it is expected to fit.
    """

    device: str
    description: str
    needed_bytes: int
    free_bytes: int | None
    window: Sizes
    fits: bool


# --- requests ---


@dataclass(frozen=True)
class Segment:
    """Segment one case; answered with `Segmented`, kept as the result `id` for `Explain` and `Review`.

    Attributes:
        id: Id of the request.
        model: Name of a model or its folder.
        volumes: One per modality, named by `SharedVolume.modality` or in the model's order; those that the
            model does not need may be missing, and then all have to be named.
        roi: Only look here.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:N"` or `"mps"`.
        samples: Stochastic passes; 0 for one pass; None for one where the model has a one-pass head, else
            ten.
        seed: Of the stochastic passes.
        explain: Keys of structures to compute Grad-CAM for; `("all",)` for all of them.
        review: How low-confidence regions are looked for.
    """

    id: str
    model: str
    volumes: tuple[SharedVolume, ...]
    roi: BoxLPS | None = None
    device: str = "auto"
    samples: int | None = None
    seed: int = 0
    explain: tuple[str, ...] = ()
    review: ReviewOptions = ReviewOptions()


@dataclass(frozen=True)
class Explain:
    """Grad-CAM of structures of a result that the worker has kept; answered with `Explained`.

    Attributes:
        id: Id of the request.
        result: Id of the `Segment` request.
        structures: Keys of structures of the result.
        region: Only the structure's part in this box is explained; None for all of it.
        layer: Layer of the network; None for those that are shown together by default.
    """

    id: str
    result: str
    structures: tuple[str, ...]
    region: BoxLPS | None = None
    layer: str | None = None


@dataclass(frozen=True)
class Review:
    """Low-confidence regions of a kept result with other options; answered with `Reviewed`.

    Attributes:
        id: Id of the request.
        result: Id of the `Segment` request.
        options: How regions are looked for.
    """

    id: str
    result: str
    options: ReviewOptions = ReviewOptions()


@dataclass(frozen=True)
class Estimate:
    """Memory that a run would need; answered with `Estimated`. The grid stands for the first input.

    Attributes:
        id: Id of the request.
        model: Name of a model or its folder.
        size: Voxels along i, j, k.
        spacing: mm along i, j, k.
        direction: (3, 3) row by row, LPS.
        roi: As in `Segment`.
        samples: As in `Segment`.
        origin: LPS mm of the centre of voxel (0, 0, 0); only a `roi` needs it.
    """

    id: str
    model: str
    size: Sizes
    spacing: Triple
    direction: tuple[float, ...]
    roi: BoxLPS | None = None
    samples: int | None = None
    origin: Triple = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class ListModels:
    """List the models; answered with `ModelList`.

    Attributes:
        id: Id of the request.
        verify: Also hash the weights.
    """

    id: str
    verify: bool = False


@dataclass(frozen=True)
class Doctor:
    """Check machine and installation; answered with `DoctorReport`.

    Attributes:
        id: Id of the request.
    """

    id: str


@dataclass(frozen=True)
class Cancel:
    """Stop a request that runs or waits; answered with `Done`, the request itself with `Cancelled`.

    Attributes:
        id: Id of this request.
        target: Id of the request to stop; one that has ended already is no error.
    """

    id: str
    target: str


@dataclass(frozen=True)
class Unload:
    """Forget models and kept results, so that their memory is free; answered with `Done`.

    Attributes:
        id: Id of the request.
    """

    id: str


@dataclass(frozen=True)
class Shutdown:
    """End the worker, stopping what it does; answered with `Done`.

    Attributes:
        id: Id of the request.
    """

    id: str


Request = Segment | Explain | Review | Estimate | ListModels | Doctor | Cancel | Unload | Shutdown


# --- what a result carries ---


@dataclass(frozen=True)
class Segmented:
    """What a `Segment` gave; all volumes on the grid of the first input.

    Attributes:
        labels: Labelmap, whole numbers.
        structures: What its values stand for.
        maps: Uncertainty, error and variance maps, attention and path where the model has the blocks for
            them, and Grad-CAM where asked for.
        summaries: Numbers per structure, in the order of `structures`.
        regions: Low-confidence regions, the text of `DIANetLib.acwi.review.regions_to_json`.
        warnings: Sentences for the user.
        device: Where the network ran.
        timings: Seconds per stage.
        samples: Stochastic passes; 0 for one pass.
        seed: Of the stochastic passes.
        model: Name of the model.
        model_version: Its version.
        model_sha256: Hash of its weights.
        layers: Layers of the network that Grad-CAM can be taken at.
        paths: Names of the paths through the network whose numbers the map `"path"` holds, the first is 1;
            empty where there is no such map.
        uncertainty: What the uncertainty maps come from: `"samples"`, `"one-pass"`, or `"plain"` where only
            the total is known.
        familiarity: Whether the image is like what the model was fitted on, a line for people; empty where
            the model cannot tell.
    """

    labels: SharedVolume
    structures: tuple[StructureInfo, ...]
    maps: tuple[MapFile, ...]
    summaries: tuple[StructureSummary, ...]
    regions: str
    warnings: tuple[str, ...]
    device: str
    timings: Mapping[str, float]
    samples: int
    seed: int
    model: str
    model_version: str
    model_sha256: str
    layers: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    uncertainty: str = "samples"
    familiarity: str = ""


@dataclass(frozen=True)
class Explained:
    """Grad-CAM maps.

    Attributes:
        maps: One per structure, kind `"gradcam"`.
        warnings: Sentences for the user.
    """

    maps: tuple[MapFile, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reviewed:
    """Low-confidence regions.

    Attributes:
        regions: The text of `DIANetLib.acwi.review.regions_to_json`.
    """

    regions: str


@dataclass(frozen=True)
class Estimated:
    """What a run would need, the device that `auto` means first.

    Attributes:
        devices: Every device there is.
    """

    devices: tuple[DeviceEstimate, ...]


@dataclass(frozen=True)
class ModelList:
    """The models.

    Attributes:
        models: Usable or not.
    """

    models: tuple[ModelInfo, ...]


@dataclass(frozen=True)
class DoctorReport:
    """What was found.

    Attributes:
        text: Lines for people.
        problems: How many problems there are.
    """

    text: str
    problems: int


@dataclass(frozen=True)
class Done:
    """Nothing but that it is done."""


Payload = Segmented | Explained | Reviewed | Estimated | ModelList | DoctorReport | Done


# --- events ---


@dataclass(frozen=True)
class Hello:
    """First line of a worker.

    Attributes:
        protocol: `PROTOCOL_VERSION` of the worker.
        version: Version of DIANet.
        pid: Process id.
        python: Version of Python.
    """

    protocol: int
    version: str
    pid: int
    python: str


@dataclass(frozen=True)
class Progress:
    """A step of a request.

    Attributes:
        id: Id of the request.
        stage: What is being done: `"load"`, `"prepare"`, `"localise"`, `"segment"`, `"restore"`, `"explain"`,
            `"inner"`, `"review"`, `"write"`.
        done: Steps finished.
        total: Steps of this stage.
    """

    id: str
    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Result:
    """A request has ended well.

    Attributes:
        id: Id of the request.
        payload: What it gave.
    """

    id: str
    payload: Payload


@dataclass(frozen=True)
class Failed:
    """A request has failed; or, without id, a line could not be understood.

    Attributes:
        id: Id of the request.
        kind: `DIANetError.kind`; `"internal"` for a fault of DIANet itself, whose traceback is in the log.
        message: What went wrong, a sentence.
        remedy: What to do about it.
    """

    id: str | None
    kind: str
    message: str
    remedy: str | None = None


@dataclass(frozen=True)
class Cancelled:
    """A request was stopped by `Cancel`.

    Attributes:
        id: Id of the request.
    """

    id: str


Event = Hello | Progress | Result | Failed | Cancelled
