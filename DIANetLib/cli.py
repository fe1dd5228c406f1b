# SPDX-License-Identifier: Apache-2.0
"""The `dianet` command: arguments to jobs (`DIANetLib.worker`), results to text.

Nothing heavy is imported until a job runs, so that `--help` and `models` answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from DIANetLib import __version__
from DIANetLib.cli_corrections import add_correct, add_corrections
from DIANetLib.cli_heads import add_classify, add_reconstruct
from DIANetLib.cli_images import add_image_arguments, add_run_arguments, asked, image_sources, region
from DIANetLib.cli_viewer import add_view
from DIANetLib.console import (
    NOTICE,
    classification_lines,
    guarded,
    progress_display,
    quality_lines,
    region_line,
    structure_table,
    table,
    timing_line,
)
from DIANetLib.worker.__main__ import DESCRIPTION as WORKER_DESCRIPTION
from DIANetLib.worker.__main__ import add_arguments as add_worker_arguments
from DIANetLib.worker.__main__ import serve

if TYPE_CHECKING:
    from DIANetLib.worker.evaluation import Evaluation
    from DIANetLib.worker.jobs import SegmentResult

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    Args:
        arguments: Without the program's name; `sys.argv` when None.
    """
    parsed = _parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    return guarded(lambda: int(parsed.run(parsed)), debug=parsed.debug)


def _joined(arguments: Sequence[str]) -> list[str]:
    """Join `--roi` and its value: argparse takes one that starts with a minus for an option."""
    joined: list[str] = []
    for text in arguments:
        if joined and joined[-1] == "--roi" and text.startswith("-"):
            joined[-1] = f"--roi={text}"
        else:
            joined.append(text)
    return joined


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"dianet: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks and warnings of libraries")
    parser = _Parser(
        prog="dianet",
        description=f"Medical image segmentation with uncertainty and explanations. {NOTICE}",
        epilog="`dianet COMMAND --help` lists a command's options.",
    )
    parser.add_argument("--version", action="version", version=f"dianet {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_segment(
        commands.add_parser(
            "segment",
            parents=[common],
            help="segment an image and say how sure the model is",
            description=f"Segment an image, with uncertainty and Grad-CAM, into a folder. {NOTICE}",
            epilog="Example: dianet segment head.nii.gz --model hippocampus --output result",
        )
    )
    add_classify(
        commands.add_parser(
            "classify",
            parents=[common],
            help="say which class an image as a whole is of",
            description=f"Classify an image, with uncertainty, activation maps and Grad-CAM. {NOTICE}",
            epilog="Example: dianet classify chest.png --model pneumonia --output result",
        )
    )
    add_reconstruct(
        commands.add_parser(
            "reconstruct",
            parents=[common],
            help="make a better image of a noisy one",
            description=f"Denoise an image, with the deviation of the model's samples. {NOTICE}",
            epilog="Example: dianet reconstruct noisy.nii.gz --model denoiser --output result",
        )
    )
    _add_evaluate(
        commands.add_parser(
            "evaluate",
            parents=[common],
            help="compare an output folder with a reference",
            description="Compare an output folder with a reference labelmap: Dice, HD95, NSD at 1 mm, ECE,"
            " error AUROC, AURC. Writes evaluation.json and evaluation.csv into the folder.",
            epilog="Example: dianet evaluate result --reference manual.nii.gz --map 1=hippocampus_anterior",
        )
    )
    add_view(
        commands.add_parser(
            "view",
            parents=[common],
            help="look at an output folder in a browser, and judge its uncertain regions",
            description="Show an output folder of `dianet segment` in a browser on this machine: slices, 3-D,"
            f" layers, and the regions to look at, with what you say of them. {NOTICE}",
            epilog="Example: dianet view result",
        )
    )
    add_correct(
        commands.add_parser(
            "correct",
            parents=[common],
            help="keep a corrected segmentation, for a model to learn from",
            description="Keep an output folder's segmentation, before and after it was corrected in any tool,"
            " with who, when, which model and which image: a package that `python -m training finetune`"
            " learns from.",
            epilog="Example: dianet correct result --after edited.seg.nrrd --reviewer 'A. Reader' --output"
            " corrections",
        )
    )
    add_corrections(
        commands.add_parser(
            "corrections",
            parents=[common],
            help="list kept corrections",
            description="List packages of corrections and check each. Exits with 1 if one is damaged.",
        )
    )
    models = commands.add_parser(
        "models",
        parents=[common],
        help="list the models",
        description="List the models, with what they find.",
    )
    models.add_argument("--verify", action="store_true", help="also compare the weights with their hash")
    models.set_defaults(run=_models)
    doctor = commands.add_parser(
        "doctor",
        parents=[common],
        help="check this machine and installation",
        description="Check this machine and installation, and say what to do about each problem. Exits with 1"
        " if there is one.",
    )
    doctor.add_argument(
        "--output", type=Path, default=Path(), help="folder whose disk to check (default: here)"
    )
    doctor.set_defaults(run=_doctor)
    worker = commands.add_parser(
        "worker",
        parents=[common],
        help="run the process that programs such as 3D Slicer talk to",
        description=WORKER_DESCRIPTION,
    )
    add_worker_arguments(worker)
    worker.set_defaults(run=_worker)
    return parser


def _add_segment(parser: argparse.ArgumentParser) -> None:
    add_image_arguments(parser)
    parser.add_argument(
        "--roi",
        metavar="BOX|MASK",
        help="where to look: x1,x2,y1,y2,z1,z2 in mm (RAS, as 3D Slicer shows them), or the file of a mask"
        " whose bounding box is taken; default: the model finds it",
    )
    parser.add_argument(
        "--explain",
        nargs="+",
        default=["all"],
        metavar="STRUCTURE",
        help="structures to compute Grad-CAM for; all (default) or none",
    )
    parser.add_argument(
        "--attention",
        action="store_true",
        help="also write where the network attends to: attention.nrrd, the same per scale, and saliency.nrrd,"
        " the image times the first; for models with attention",
    )
    parser.add_argument(
        "--reliable-path",
        action="store_true",
        help="also write which path through the network counts most: reliable_path.nrrd; for models that fuse"
        " several",
    )
    add_run_arguments(parser, one_pass=True)
    parser.set_defaults(run=_segment)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="an output folder of `dianet segment`")
    parser.add_argument(
        "--reference",
        required=True,
        type=Path,
        metavar="LABELS",
        help="labelmap on the same grid, or .seg.nrrd",
    )
    parser.add_argument(
        "--map",
        action="append",
        metavar="VALUE=STRUCTURE[+...]",
        help="what a value of the reference stands for; a structure without its side stands for both; may be"
        " repeated. Default: equal values",
    )
    parser.set_defaults(run=_evaluate)


def _segment(options: argparse.Namespace) -> int:
    from DIANetLib.worker.jobs import SegmentRequest, segment

    request = SegmentRequest(
        images=image_sources(options),
        model=options.model,
        output=options.output,
        roi=region(options.roi),
        device=options.device,
        samples=options.samples,
        seed=options.seed,
        explain=asked(options.explain),
        inner=(
            *(("attention",) if options.attention else ()),
            *(("reliable_path",) if options.reliable_path else ()),
        ),
        series=options.series,
        overwrite=options.overwrite,
    )
    with progress_display(quiet=options.quiet) as progress:
        result = segment(request, progress=progress)
    print(_summary(result))
    return 0


def _summary(result: SegmentResult) -> str:
    prediction = result.prediction
    return "\n".join(
        [
            structure_table(prediction),
            "",
            *quality_lines(prediction),
            f"Uncertainty from {prediction.uncertainty_text}.",
            *classification_lines(prediction),
            region_line(result.regions, prediction),
            *(f"Warning: {text}" for text in prediction.warnings),
            timing_line(prediction.timings),
            f"Wrote {result.paths.directory}, to read: {result.paths.report}",
            NOTICE,
        ]
    )


def _evaluate(options: argparse.Namespace) -> int:
    from DIANetLib.worker.evaluation import evaluate, parse_mapping

    mapping = parse_mapping(options.map) if options.map else None
    print(_evaluation_text(evaluate(options.directory, options.reference, mapping=mapping)))
    return 0


def _evaluation_text(result: Evaluation) -> str:
    rows = [
        (
            s.structure,
            f"{s.dice:.3f}",
            f"{s.hd95_mm:.2f}",
            f"{s.nsd:.3f}",
            f"{s.volume_ml:.2f}",
            f"{s.reference_ml:.2f}",
        )
        for s in result.scores
    ]
    mean = ("mean", f"{result.mean_dice:.3f}", f"{result.mean_hd95_mm:.2f}", f"{result.mean_nsd:.3f}", "", "")
    header = ("structure", "Dice", "HD95 mm", "NSD 1 mm", "ml", "reference ml")
    figures = [
        ("error AUROC", result.error_auroc),
        ("AURC", result.aurc),
        ("normalised AURC", result.normalised_aurc),
        ("ECE", result.ece),
    ]
    text = ", ".join(f"{name} {'-' if value != value else f'{value:.3f}'}" for name, value in figures)
    judged = f"{result.uncertainty}, {result.voxels:,} voxels within 3 of a structure"
    return f"{table(header, [*rows, mean])}\n\n{text} ({judged})"


def _models(options: argparse.Namespace) -> int:
    from DIANetLib.bundle import search_paths
    from DIANetLib.worker.jobs import models

    entries = models(verify=options.verify)
    if not entries:
        looked = ", ".join(map(str, search_paths())) or "nowhere"
        print(f"No models in {looked}; $DIANET_MODELS may name folders of models.")
    for entry in entries:
        if entry.metadata is None or entry.problem is not None:
            print(f"{entry.name}: cannot be used. {entry.problem}\n  {entry.path}")
            continue
        section = entry.metadata.dianet
        inputs = ", ".join(m.name if m.required else f"{m.name} (optional)" for m in section.modalities)
        found = ", ".join(structure.key for structure in section.structures)
        dice = section.figures.get("dice")  # a figure over cases, as `python -m training export` notes it
        mean = dice.get("mean") if isinstance(dice, dict) else dice
        figure = f", mean Dice {mean:.3f} on cases not trained on" if isinstance(mean, int | float) else ""
        print(f"{entry.name} {entry.metadata.version}: {entry.metadata.task}")
        print(f"  input: {inputs}; {section.size_bytes / 1e6:.1f} MB{figure}")
        if section.structures:
            print(f"  structures: {found}")
        if section.classes:
            print(f"  classes: {', '.join(entry.key for entry in section.classes)}")
        if section.reconstruction is not None:
            print(f"  reconstructs: {section.reconstruction.task}")
        if section.localiser is not None:
            print(f"  finds where to look with: {section.localiser.model}")
        print(f"  {entry.metadata.copyright}")
        print(f"  {entry.path}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from DIANetLib.doctor import examine, report

    checks = examine(options.output)
    print(report(checks))
    return int(any(check.problem for check in checks))


def _worker(options: argparse.Namespace) -> NoReturn:
    serve(options.exchange, idle_minutes=options.idle_minutes)


if __name__ == "__main__":
    sys.exit(main())
