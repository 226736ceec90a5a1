"""CDNOW, from its purchases through the state of the system, against the published summary and fit."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path

import pandas as pd
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # lifetimes asks for pkg_resources, which announces its end
    from lifetimes import BetaGeoFitter
    from lifetimes.datasets import load_cdnow_summary_data_with_monetary_value

ROOT = Path(__file__).parents[2]
COLUMNS = ["frequency", "recency", "T", "monetary_value"]


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    """The package's summary of the 2,357 customers through 1997-09-30, in weeks rounded to hundredths."""
    return load_cdnow_summary_data_with_monetary_value().sort_index()[COLUMNS]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The same, exported by the command line from the customers' states."""
    footfall = ROOT / "bin" / "footfall"
    assert footfall.exists(), "bin/footfall is missing: make build makes it"
    out = tmp_path_factory.mktemp("cdnow") / "summary.csv"
    command = ["features", "cdnow-sample", "--format", "lifetimes", "--to", "1997-09-30", "--unit", "week"]
    done = subprocess.run([footfall, *command, "--out", out], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out)
    assert list(table.columns) == ["customer_id", *COLUMNS]
    return table.set_index("customer_id").sort_index()


def test_the_summary_is_the_published_one(ours: pd.DataFrame, published: pd.DataFrame) -> None:
    assert list(ours.index) == list(published.index)
    assert len(ours) == 2357
    assert (ours["frequency"] == published["frequency"]).all()
    # Half of what rounding to two decimals can take, and a little for the sum in binary.
    for column in ("recency", "T", "monetary_value"):
        assert (ours[column] - published[column]).abs().max() <= 0.005 + 1e-9, column


def test_the_fit_is_the_published_one(ours: pd.DataFrame) -> None:
    fit = BetaGeoFitter(penalizer_coef=0.0).fit(ours["frequency"], ours["recency"], ours["T"])
    got = [float(fit.params_[name]) for name in ("r", "alpha", "a", "b")]
    assert [float(f"{value:.3g}") for value in got] == [0.243, 4.41, 0.793, 2.43]
    # And to a figure more than three.
    assert got == pytest.approx([0.243, 4.414, 0.793, 2.426], abs=6e-4)
