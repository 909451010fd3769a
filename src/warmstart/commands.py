"""The flags of the commands beside train and compare, which are Hydra's."""

from __future__ import annotations

import argparse
from pathlib import Path


def _report(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart report",
        description="Print the table of a comparison or a tuning and write its HTML page, from "
        "records alone.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="an output folder, a comparison in it, or a run; or one tuning in it",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where the page goes (default: DIR/report.html)"
    )
    options = parser.parse_args(args)
    from warmstart.summary import summarize

    summarize(options.folders, options.out)


def _status(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart status",
        description="Show how far the runs are: done, running (step, time left, device), still to "
        "come, failed and why; and what they have cost. Read from disk alone, also from another "
        "machine that sees the folder, while they run.",
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help="an output folder (default: outputs), a comparison in it, or a run",
    )
    parser.add_argument("--watch", action="store_true", help="go on until all have ended")
    parser.add_argument("--json", action="store_true", help="for programs: every run")
    options = parser.parse_args(args)
    from warmstart.status_view import status_command

    status_command(options.folder, watch=options.watch, as_json=options.json)


def _models(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart models",
        description="List the architectures; with a pattern, also their sizes and known weights.",
    )
    parser.add_argument(
        "pattern",
        nargs="?",
        metavar="PATTERN",
        help="a part of the name, or with wildcards: 'vgg*', 'timm/convnext*'",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(args)
    from warmstart.catalogue import show

    show(options.pattern, as_json=options.json)


def _plan(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart plan",
        description="Show what `warmstart train` with the same overrides would do: layer groups, "
        "their weights, rates and phases, memory and files. Nothing trains.",
    )
    _add_overrides(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_intermixed_args(args)
    from warmstart.preview_table import plan_command

    plan_command(options.overrides, config_dirs=options.config_dir, as_json=options.json)


def _look(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart look",
        description="Show the data of `warmstart train` with the same overrides, in the terminal "
        "and as a page: classes, sizes, damaged files, duplicates, and the images as the network "
        "will see them. Nothing trains.",
    )
    _add_overrides(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: OUT/looks/DATA.html)",
    )
    options = parser.parse_intermixed_args(args)
    from warmstart.look.command import look_command

    look_command(options.overrides, config_dirs=options.config_dir, out=options.out)


def _check(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart check",
        description="Look at the first steps of `warmstart train` with the same overrides, in "
        "about a minute: the loss at step 0, a few batches learned by heart, a learning-rate range "
        "test, labels, BatchNorm; each with a verdict: ok, look, or wrong (then the exit code is "
        "1). No run is started, and test is not looked at.",
    )
    _add_overrides(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_intermixed_args(args)
    from warmstart.check.command import check_command

    check_command(options.overrides, config_dirs=options.config_dir, as_json=options.json)


def _rank(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart rank",
        description="Judge pretrained weights by their features of your training images: LogME, "
        "nearest neighbours, nearest class means, each beside the same network with random "
        "weights, and what a forward pass costs. Nothing trains, and test is not looked at. A "
        "prediction, no evidence: that is what `warmstart compare` is for.",
        epilog="example: warmstart rank data=digits 'models=[mobilenet_v2,resnet18,"
        "resnet20@weights.safetensors,timm/convnext_tiny]'",
    )
    _add_overrides(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_intermixed_args(args)
    from warmstart.ranking_table import rank_command

    rank_command(options.overrides, config_dirs=options.config_dir, as_json=options.json)


def _features(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart features",
        description="Write the activations of all images at the layer group group=L (a name or a "
        "number), or at all groups with group=all, of the model as `warmstart train` with the same "
        "overrides would start with it. features.pool=gap, flatten or cls makes vectors of them. "
        "They are kept in the store: the same command goes on where it was stopped.",
    )
    _add_overrides(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="*.npz or *.parquet (default: OUT/features/KEY.GROUP.npz); in parts of a GiB",
    )
    parser.add_argument("--float16", action="store_true", help="half the room, three digits")
    options = parser.parse_intermixed_args(args)
    from warmstart.features_command import features_command

    features_command(
        options.overrides,
        config_dirs=options.config_dir,
        out=options.out,
        half=options.float16,
    )


def _store(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart store",
        description="List what is kept for later runs (decoded images, unpacked archives, fetched "
        "weights, source runs), or delete some of it. What is deleted is made again when a run "
        "needs it. What was trained goes only by its own name, as with --clear 'runs/*'; what a "
        "process is at stays.",
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="the store (default: outputs/store)"
    )
    parser.add_argument(
        "--clear",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="delete entries of these names or kinds: images/digits-8, images, '*cifar10*'",
    )
    options = parser.parse_args(args)
    from warmstart.stock import stock_command

    stock_command(options.folder, clear=options.clear)


def _ensemble(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart ensemble",
        description="Average the predicted probabilities of finished runs, those of an arm and "
        "size over their seeds, and print accuracy and log loss of the members, of the ensemble, "
        "and what it gains. From the files of predictions alone: nothing is run again.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="an output folder, a comparison in it, or runs, which make one ensemble together",
    )
    parser.add_argument(
        "--snapshots",
        action="store_true",
        help="of the snapshots that each run kept (scheduler=sgdr snapshots=true)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(args)
    from warmstart.results.ensemble_table import ensemble_command

    ensemble_command(options.folders, snapshots=options.snapshots, as_json=options.json)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as of warmstart train")
    parser.add_argument(
        "--config-dir", "-cd", action="append", default=[], metavar="DIR", help="configs of yours"
    )


OTHERS = {
    "look": _look,
    "plan": _plan,
    "check": _check,
    "rank": _rank,
    "features": _features,
    "report": _report,
    "ensemble": _ensemble,
    "status": _status,
    "models": _models,
    "store": _store,
}
"""By name: each takes the words behind its own."""
