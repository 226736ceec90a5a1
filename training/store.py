"""The folder of models, ``models/<name>/<version>/``: a version is there whole, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training import networks
from training.contract import SIGNATURE, Contract
from training.runtime import keras, tf

# How far an exported graph may be from the network that it was made of.
TOLERANCE = 1e-6


def next_version(models: Path, name: str) -> int:
    """One more than the highest version of a model that is there."""
    folder = models / name
    numbers = [int(v.name) for v in folder.iterdir() if v.name.isdecimal()] if folder.is_dir() else []
    return max(numbers, default=0) + 1


def export(network: keras.Model, folder: Path) -> None:
    """Writes a network as a SavedModel into a folder, which is made."""
    network.export(str(folder), format="tf_saved_model", verbose=False)
    # No model has assets, and git keeps no empty folder.
    shutil.rmtree(folder / "assets", ignore_errors=True)


def score(saved: Path, inputs: NDArray[np.floating], batch: int = 4096) -> NDArray[np.float32]:
    """What a SavedModel in a folder answers to inputs [n, ...]: float32 [n].

    It is run by its signature, as a server runs it.
    """
    served = tf.saved_model.load(str(saved)).signatures[SIGNATURE]
    (key,) = served.structured_input_signature[1]
    (answer,) = served.structured_outputs
    parts = [
        served(**{key: tf.constant(inputs[i : i + batch], dtype=tf.float32)})[answer].numpy()[:, 0]
        for i in range(0, len(inputs), batch)
    ]
    return np.concatenate(parts)


def check_export(saved: Path, network: keras.Model, inputs: NDArray[np.floating]) -> None:
    """Holds a SavedModel against the network that it was exported from.

    Raises:
        ValueError: if an answer differs by more than TOLERANCE.
    """
    want = networks.answer(network, inputs)[:, 0]
    apart = float(np.max(np.abs(score(saved, inputs) - want)))
    if not apart <= TOLERANCE:
        raise ValueError(f"{saved}: the export differs from the network by {apart:.2g}, more than {TOLERANCE:.0e}")


def digest(folder: Path) -> str:
    """Of a version's files, as ``files`` in its model.yaml has it: of what sha256sum prints of all but model.yaml.

    Returns:
        "sha256:" and 64 hexadecimal digits.
    """
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    kept = [p for p in paths if p != "model.yaml" and not any(part.startswith(".") for part in p.split("/"))]
    lines = "".join(f"{hashlib.sha256((folder / p).read_bytes()).hexdigest()}  {p}\n" for p in kept)
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


class Draft:
    """A version in the making: a hidden folder beside its place, which :meth:`publish` gives its name.

    Use it as a context manager; what was not published is removed at its end.
    """

    def __init__(self, models: Path, name: str) -> None:
        self.home = models / name
        self.home.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=".draft-", dir=self.home))

    def __enter__(self) -> Draft:
        """Nothing more than itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes what is left of the draft."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def publish(self, contract: Contract) -> Path:
        """Adds the contract and moves the draft to its version's place, in the stead of what was there.

        Returns:
            The version's folder.
        """
        text = contract.text(self.folder)
        # Last, and with the digest of the others: a copy of the folder that is half there is not loaded.
        (self.folder / "model.yaml").write_text(f"{text}files: {digest(self.folder)}\n", encoding="utf-8")
        for path in [*self.folder.rglob("*"), self.folder]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        place = self.home / str(contract.version)
        if place.exists():
            # A folder cannot replace another at once: for a moment the version is missing.
            aside = Path(tempfile.mkdtemp(prefix=".old-", dir=self.home))
            place.rename(aside / "model")
            self.folder.rename(place)
            shutil.rmtree(aside)
        else:
            self.folder.rename(place)
        os.sync()
        return place
