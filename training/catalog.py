"""The models that Footfall serves, and how each is trained and evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from training import measures, networks, segments, store
from training.contract import Contract
from training.runtime import keras
from training.table import FEATURES, SEQUENCE, Splits, Table, TableError
from training.trainable import Trainable


@dataclass(frozen=True)
class Forecast:
    """A model that answers the probability that something happens to a customer.

    Attributes:
        name: of the model.
        description: what the answer means.
        label: what it foretells.
        inputs: features or sequence.
        build: makes the network from the training rows' inputs.
        schedule: how it is fitted.
        trainable: whether a server can train it on (see :mod:`training.trainable`).
    """

    name: str
    description: str
    label: str
    inputs: str
    build: Callable[[NDArray[np.float32]], keras.Model]
    schedule: networks.Schedule
    trainable: bool = False

    def train(self, table: Table, splits: Splits, models: Path, version: int, seed: int) -> Contract:
        """Fits on the training weeks, calibrates on the validation weeks, exports, and tests the export on later ones.

        Raises:
            TableError: if a split has nothing to learn from.
        """
        train, validate, test = splits.of(table, self.label)
        x, x_validate, x_test = (_inputs(rows, self.inputs) for rows in (train, validate, test))
        networks.seed_all(seed)
        network = self.build(x)
        epochs = networks.fit(
            network, self.schedule, (x, train.labels[self.label]), (x_validate, validate.labels[self.label]), seed
        )
        slope = networks.calibrate(network, x_validate, validate.labels[self.label])
        logits, network = network, networks.probabilities(network)
        with store.Draft(models, self.name) as draft:
            if self.trainable:
                Trainable(logits, self.inputs).write(draft.folder)
            else:
                store.export(network, draft.folder)
            store.check_export(draft.folder, network, x_test)
            evaluation = measures.of_probabilities(test.labels[self.label], store.score(draft.folder, x_test))
            contract = Contract(
                name=self.name,
                version=version,
                description=self.description,
                input_name=self.inputs,
                columns=FEATURES if self.inputs == "features" else SEQUENCE,
                output_name=self.label,
                output_kind="probability",
                train=train,
                evaluation={
                    **evaluation,
                    "first_day": int(test.day.min()),
                    "last_day": int(test.day.max()),
                    **measures.of_baselines(train, test, self.label),
                    "epochs": epochs,
                    "calibration_slope": slope,
                },
                seed=seed,
            )
            draft.publish(contract)
        return contract

    def summary(self, evaluation: dict[str, float]) -> str:
        """The figures that tell whether it is any good, on one line."""
        e = evaluation
        return (
            f"AUC {e['auc']:.4f}, average precision {e['average_precision']:.4f}, log-loss {e['log_loss']:.4f}, "
            f"calibration error {e['ece']:.4f} on {e['rows']:,} rows "
            f"(logistic regression: {e['baseline_logistic_auc']:.4f}, {e['baseline_logistic_average_precision']:.4f}, "
            f"{e['baseline_logistic_log_loss']:.4f}, {e['baseline_logistic_ece']:.4f})"
        )


@dataclass(frozen=True)
class Segmentation:
    """The model that answers which of a few groups a customer is in (k-means on standardised features).

    Attributes:
        name: of the model.
        description: what the answer means.
        count: how many groups.
        other_seeds: as many more clusterings tell how much of it is chance.
    """

    name: str
    description: str
    count: int = 5
    other_seeds: int = 3
    # The label whose splits it is trained and tested on; it learns from no label.
    label: str = field(default="purchase_7d", repr=False)

    def train(self, table: Table, splits: Splits, models: Path, version: int, seed: int) -> Contract:
        """Clusters the training weeks, names the groups, exports, and looks at the export's groups in the test weeks.

        Raises:
            TableError: if a split has no rows, or fewer distinct ones than groups.
        """
        train, _, test = splits.of(table, self.label)
        x, x_test = _inputs(train, "features"), _inputs(test, "features")
        mean, scale = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        scale[scale == 0] = 1
        standard, standard_test = (x - mean) / scale, (x_test - mean) / scale
        if len(np.unique(standard, axis=0)) < self.count:
            raise TableError(f"split train of {self.name}: fewer different rows than {self.count} segments")

        clusters = [self._cluster(standard, seed + i) for i in range(1 + self.other_seeds)]
        found = clusters[0].cluster_centers_ * scale + mean
        ordered = segments.order(found)
        network = networks.segmentation(x, clusters[0].cluster_centers_[ordered])
        with store.Draft(models, self.name) as draft:
            store.export(network, draft.folder)
            store.check_export(draft.folder, network, x_test)
            group, group_test = (store.score(draft.folder, rows).astype(int) for rows in (x, x_test))
            contract = Contract(
                name=self.name,
                version=version,
                description=self.description,
                input_name="features",
                columns=FEATURES,
                output_name="segment",
                output_kind="segment",
                train=train,
                evaluation={
                    "silhouette": _silhouette(standard_test, group_test, seed),
                    "ari_between_seeds": float(
                        np.mean([adjusted_rand_score(group_test, c.predict(standard_test)) for c in clusters[1:]])
                    ),
                    "rows": len(test),
                    "first_day": int(test.day.min()),
                    "last_day": int(test.day.max()),
                    **_rates(test, group_test, self.count),
                },
                seed=seed,
                segments=[
                    segments.Segment(i, name, segments.describe(centroid, train.take(group == i), np.mean(group == i)))
                    for i, (name, centroid) in enumerate(
                        zip(segments.names(found[ordered], scale), found[ordered], strict=True)
                    )
                ],
            )
            draft.publish(contract)
        return contract

    def _cluster(self, standard: NDArray[np.float64], seed: int) -> KMeans:
        return KMeans(self.count, n_init=5, random_state=seed).fit(standard)

    def summary(self, evaluation: dict[str, float]) -> str:
        """The figures that tell how sharp and how stable the groups are, on one line."""
        return (
            f"silhouette {evaluation['silhouette']:.2f}, adjusted Rand index between seeds "
            f"{evaluation['ari_between_seeds']:.2f}"
        )


def _inputs(rows: Table, name: str) -> NDArray[np.float32]:
    """As a server feeds them: float32."""
    return (rows.features if name == "features" else rows.sequence).astype(np.float32)


def _silhouette(standard: NDArray[np.float64], group: NDArray[np.int_], seed: int, sample: int = 5000) -> float:
    """Of a sample of rows, as it costs the square of their number; nan-free: 0 where all are in one group."""
    if len(np.unique(group)) < 2:
        return 0.0
    rows = np.random.default_rng(seed).permutation(len(group))[:sample]
    if len(np.unique(group[rows])) < 2:
        return 0.0
    return float(silhouette_score(standard[rows], group[rows]))


def _rates(test: Table, group: NDArray[np.int_], count: int) -> dict[str, float]:
    """For each group its share of the test rows, and how many of them went on to buy."""
    rates: dict[str, float] = {}
    for i in range(count):
        rates[f"share_{i}"] = float(np.mean(group == i))
        bought = test.labels["purchase_7d"][group == i]
        if len(bought):
            rates[f"purchase_7d_rate_{i}"] = float(np.mean(bought))
    return rates


MODELS: tuple[Forecast | Segmentation, ...] = (
    Forecast(
        name="purchase_prediction",
        description="Probability that a customer buys within the seven days that follow, from ten features.",
        label="purchase_7d",
        inputs="features",
        build=networks.dense,
        schedule=networks.Schedule(epochs=20, rate=2e-3, decay=0.02),
        trainable=True,
    ),
    Forecast(
        name="purchase_sequence",
        description="Probability that a customer buys within the seven days that follow, from the last ten shopping "
        "days.",
        label="purchase_7d",
        inputs="sequence",
        build=networks.lstm,
        schedule=networks.Schedule(epochs=12, rate=3e-3, decay=0.02),
    ),
    Forecast(
        name="churn_risk",
        description="Probability that a customer buys nothing within the 28 days that follow, from ten features.",
        label="churn_28d",
        inputs="features",
        build=networks.dense_ramps,
        schedule=networks.Schedule(epochs=12, rate=1e-3, decay=0.05),
        trainable=True,
    ),
    Segmentation(
        name="customer_segmentation",
        description="Which group of customers with similar shopping habits a customer is in, the most active first.",
    ),
)
