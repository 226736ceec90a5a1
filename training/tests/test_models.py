"""The models that a clone of the repository serves: that they are whole, and as good as promised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from training import store
from training.__main__ import NAMES

MODELS = Path(__file__).parents[2] / "models"
# (measure, at least or at most, bound) on weeks that training did not see.
PROMISES = {
    "purchase_prediction": [("auc", ">=", 0.827), ("log_loss", "<=", 0.507), ("ece", "<=", 0.015)],
    "purchase_sequence": [("auc", ">=", 0.825)],
    "churn_risk": [("auc", ">=", 0.872), ("average_precision", ">=", 0.58)],
    "customer_segmentation": [("ari_between_seeds", ">=", 0.8)],
}


def document(name: str) -> dict:
    return yaml.safe_load((MODELS / name / "1" / "model.yaml").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_its_promises(name: str) -> None:
    evaluation = document(name)["evaluation"]
    for measure, relation, bound in PROMISES[name]:
        value = evaluation[measure]
        assert value >= bound if relation == ">=" else value <= bound, f"{measure} is {value}"


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_as_its_contract_says(name: str) -> None:
    contract = document(name)
    shape = contract["inputs"][0]["shape"]
    inputs = np.random.default_rng(11).uniform(0, 20, (300, *shape[1:]))
    answers = store.score(MODELS / name / "1", inputs)
    assert answers.dtype == np.float32
    assert len(np.unique(answers)) > 1
    if contract["outputs"][0]["kind"] == "probability":
        assert ((answers > 0) & (answers < 1)).all()
    else:
        assert set(answers) <= {float(s["id"]) for s in contract["segments"]}


def test_they_were_made_from_the_named_data() -> None:
    assert all(document(name)["data"]["source"].startswith("completejourney, sha256:") for name in NAMES)


def test_they_are_small() -> None:
    assert sum(f.stat().st_size for f in MODELS.rglob("*") if f.is_file()) < 2 << 20
