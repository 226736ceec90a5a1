"""The contract beside a model, ``model.yaml``: what it is fed, what it answers, how good it is.

Its keys are those that the node reads and insists on; nothing else may stand in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from training.runtime import keras, tf
from training.segments import Segment
from training.table import Table

SIGNATURE = "serve"
BINS = 10


@dataclass(frozen=True)
class Bins:
    """How one feature was spread over training's rows, to notice drift by.

    Bin i holds the values v with edges[i-1] < v <= edges[i], compared as float32; the first
    has no lower bound, the last no upper.
    """

    edges: list[float]
    shares: list[float]


def bins(values: NDArray[np.floating], count: int = BINS) -> Bins | None:
    """Quantile bins of one feature's values [n]; fewer where quantiles are equal.

    None where one bin would hold everything.
    """
    values = values.astype(np.float32)
    quantiles = np.quantile(values, np.arange(1, count) / count, method="inverted_cdf")
    # An edge at the largest value would leave the last bin empty.
    edges = np.unique(quantiles[quantiles < values.max()])
    if len(edges) == 0:
        return None
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    return Bins(edges=[_shortest(e) for e in edges], shares=[round(float(c), 6) for c in counts / len(values)])


@dataclass(frozen=True)
class Contract:
    """What ``model.yaml`` says; see :func:`text` for its form.

    Attributes:
        name: of the model, and of its folder.
        version: from 1 on.
        description: what the answer means, in a sentence.
        input_name: features or sequence; also the key in the signature.
        columns: names of the input's last dimension, in order.
        output_name: of the label, or segment.
        output_kind: probability or segment.
        train: the rows it was trained on.
        evaluation: measures on the test rows.
        seed: of the training.
        segments: what each answer means, where it is a segment.
        created: when it was trained, UTC.
    """

    name: str
    version: int
    description: str
    input_name: str
    columns: tuple[str, ...]
    output_name: str
    output_kind: str
    train: Table
    evaluation: dict[str, float]
    seed: int
    segments: list[Segment] = field(default_factory=list)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    def text(self, saved: Path) -> str:
        """The document for the SavedModel in a folder.

        Raises:
            ValueError: if the SavedModel's signature has not one input of that name and one output.
        """
        tensors = _signature(saved)
        if list(tensors.inputs) != [self.input_name] or len(tensors.outputs) != 1:
            raise ValueError(
                f"{self.name}: signature {SIGNATURE} takes {list(tensors.inputs)} and answers "
                f"{list(tensors.outputs)}, not {self.input_name} and one value"
            )
        (output, output_shape), input_shape = next(iter(tensors.outputs.items())), tensors.inputs[self.input_name]
        newest = self.train.features if self.input_name == "features" else self.train.sequence[:, -1, :]
        spread = {column: bins(newest[:, i]) for i, column in enumerate(self.columns)}
        document: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "signature": SIGNATURE,
            "inputs": [
                {
                    "name": self.input_name,
                    "tensor": self.input_name,
                    "shape": _Line(input_shape),
                    "features": list(self.columns),
                }
            ],
            "outputs": [
                {"name": self.output_name, "tensor": output, "shape": _Line(output_shape), "kind": self.output_kind}
            ],
        }
        if self.segments:
            document["segments"] = [{"id": s.id, "name": s.name, "description": s.description} for s in self.segments]
        document["bins"] = {
            column: {"edges": _Line(b.edges), "shares": _Line(b.shares)} for column, b in spread.items() if b
        }
        document["data"] = {
            "source": self.train.source,
            "digest": self.train.fingerprint(),
            "rows": len(self.train),
            "days": _Line([int(self.train.day.min()), int(self.train.day.max())]),
        }
        document["evaluation"] = {key: _figure(value) for key, value in self.evaluation.items()}
        document["trained_with"] = {"keras": keras.__version__, "tensorflow": tf.__version__, "seed": self.seed}
        document["created"] = self.created
        return HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


HEADER = """\
# The contract of this model: what it is fed, what it answers, and how well it did. Written by make train.
# evaluation is on later weeks than training saw; baseline_* are simpler models on the same rows: the training rate for
# everyone (constant), a logistic regression on visit_days_84 (visits) and one on the ten features (logistic).
# ece is over ten equally wide bins.
"""


@dataclass(frozen=True)
class _Tensors:
    """Keys and shapes of a signature, -1 for the rows."""

    inputs: dict[str, list[int]]
    outputs: dict[str, list[int]]


def _signature(saved: Path) -> _Tensors:
    signature = tf.saved_model.load(str(saved)).signatures[SIGNATURE]
    _, inputs = signature.structured_input_signature

    def shapes(tensors: dict[str, Any]) -> dict[str, list[int]]:
        return {key: [-1 if n is None else n for n in tensors[key].shape] for key in sorted(tensors)}

    return _Tensors(inputs=shapes(inputs), outputs=shapes(signature.structured_outputs))


def _shortest(value: np.float32) -> float:
    """The decimal that reads back as the same float32, rather than the double beside it."""
    return float(str(value))


def _figure(value: float) -> float | int:
    return value if isinstance(value, int) else round(float(value), 5)


class _Line(list):
    """A list that is written on one line."""


class _Dumper(yaml.SafeDumper):
    """Indents lists below their key, as a person would."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


_Dumper.add_representer(_Line, lambda d, line: d.represent_sequence("tag:yaml.org,2002:seq", line, flow_style=True))
_Dumper.add_representer(
    datetime, lambda d, t: d.represent_scalar("tag:yaml.org,2002:timestamp", t.strftime("%Y-%m-%dT%H:%M:%SZ"))
)
