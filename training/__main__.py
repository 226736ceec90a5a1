"""``python -m training``: exports the features, trains every model, and writes them with their evaluation."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from training import table

NAMES = ("purchase_prediction", "purchase_sequence", "churn_risk", "customer_segmentation")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; argv is sys.argv where it is None."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Trains the models that Footfall serves from the features that Footfall exports.",
    )
    parser.add_argument("--features", type=Path, help="train from this export instead of making one")
    parser.add_argument("--source", default="completejourney", help="what to export (default: %(default)s)")
    parser.add_argument("--footfall", type=Path, default=Path("bin/footfall"), help="the command that exports")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where versions are written")
    parser.add_argument("--only", choices=NAMES, action="append", help="train this model alone (may be repeated)")
    parser.add_argument("--version", type=int, help="write this version, over what is there (default: the next one)")
    parser.add_argument("--seed", type=int, default=7, help="of everything random (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.version is not None and args.version < 1:
        parser.error("--version is a whole number from 1 on")
    return args


def export(footfall: Path, source: str) -> Path:
    """Has the command line export the features of a source; returns the file.

    Raises:
        TableError: if it cannot be run or fails.
    """
    out = Path("build") / "features.parquet"
    out.parent.mkdir(exist_ok=True)
    command = [str(footfall), "features", source, "--out", str(out)]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        raise table.TableError(f"{footfall} is missing: make build makes it") from None
    except subprocess.CalledProcessError as error:
        raise table.TableError(f"{' '.join(command)} failed with exit code {error.returncode}") from None
    return out


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = arguments(argv)
    try:
        rows = table.read(args.features or export(args.footfall, args.source))
        # TensorFlow takes seconds to import: not before the data are known to be good.
        from training.catalog import MODELS
        from training.store import next_version

        for model in MODELS:
            if args.only and model.name not in args.only:
                continue
            start = time.monotonic()
            version = args.version or next_version(args.models, model.name)
            contract = model.train(rows, table.COMPLETE_JOURNEY, args.models, version, args.seed)
            took = time.monotonic() - start
            print(f"{model.name} {version}: {model.summary(contract.evaluation)}; {took:.0f} s", flush=True)
            for segment in contract.segments:
                print(f"  {segment.id} {segment.name}: {segment.description}", flush=True)
    except table.TableError as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
