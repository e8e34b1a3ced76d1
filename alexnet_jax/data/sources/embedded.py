"""The embedded dataset as a TFDS builder: pictures that the package draws itself, no download.

`dead_leaves` draws; this file turns its JPEGs into a prepared TFDS directory of ArrayRecord files,
which is then read like any other TFDS dataset:

    builder = prepare()
    source = builder.as_data_source('train', decoders={'image': tfds.decode.SkipDecoding()})

or, once this module is imported, ``tfds.data_source('embedded_images', split='train')``.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from alexnet_jax.data.sources import dead_leaves

_DESCRIPTION = """
Pictures of a patterned, coloured object among dead leaves, drawn by alexnet_jax. The 20 classes
are 4 hue families (red, yellow, green, blue) by 5 patterns (vertical stripes, horizontal stripes,
checks, dots, plain). Shorter side 128 to 192 pixels, RGB, JPEG. Colour alone or pixels alone do
not tell the classes apart; a small convolutional network does.
"""


@dataclasses.dataclass(eq=False, kw_only=True)
class EmbeddedConfig(tfds.core.BuilderConfig):
    """How many images each split gets, and how they are drawn.

    The first n images of a split are the same in every configuration that has as many.

    Attributes:
        train: images in the training split; 20 classes take turns, so multiples of 20 balance.
        validation: images in the validation split.
        test: images in the test split.
        look: how well the object is seen, see `dead_leaves.LOOKS`.
        workers: processes that draw; None for one a core, 0 for none but this. No image depends
            on it.
    """

    train: int = 6000
    validation: int = 1000
    test: int = 2000
    look: str = "easy"
    workers: int | None = None


class EmbeddedImages(tfds.core.GeneratorBasedBuilder):
    """TFDS builder 'embedded_images', with features ``image`` (JPEG) and ``label``.

    Give it ``file_format='array_record'``: without TensorFlow no other format can be written.
    """

    # TFDS keeps what is prepared: what changes the images of `dead_leaves` needs a new version.
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar = [
        EmbeddedConfig(name="full", description="6000 + 1000 + 2000 images, about 120 MB."),
        EmbeddedConfig(
            name="tiny",
            description="200 + 40 + 40 images, for tests.",
            train=200,
            validation=40,
            test=40,
        ),
        EmbeddedConfig(
            name="hard",
            version=tfds.core.Version("2.0.0"),
            release_notes={"2.0.0": "Other images than 1.1.0, and half as many to train on."},
            description="1000 + 1000 + 2000 images; every other object is small and half hidden.",
            train=1000,
            look="hard",
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=dead_leaves.CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in dead_leaves.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        # Encoded bytes: TFDS needs TensorFlow to encode an array.
        config = self.builder_config
        count = getattr(config, split)
        images = dead_leaves.stream(split, count, config.workers, config.look)
        for index, (image, label) in enumerate(images):
            yield index, {"image": image, "label": label}


def full_name(spec: str) -> str:
    """The images that a data source names, as TFDS does: 'embedded_images/full/1.0.0'."""
    name = spec.partition("/")[2] or "full"
    config = EmbeddedImages.builder_configs.get(name)
    return f"{EmbeddedImages.name}/{name}/{(config and config.version) or EmbeddedImages.VERSION}"


def prepare(
    data_dir: str | os.PathLike | None = None, config: str | EmbeddedConfig = "full"
) -> EmbeddedImages:
    """Draws and writes the dataset, unless that was done before.

    TFDS writes into a temporary directory and renames it at the end, so an interrupted call leaves
    nothing that looks finished.

    Args:
        data_dir: root of the TFDS directories; None for TFDS's own (``TFDS_DATA_DIR``, else
            ``~/tensorflow_datasets``).
        config: 'full', 'tiny', or a `EmbeddedConfig` with a name of its own.

    Returns:
        The builder, ready for ``as_data_source``.

    Raises:
        ValueError: if there is no configuration of that name.
        RuntimeError: if a drawing process dies.
    """
    arguments: dict[str, Any] = {
        "data_dir": data_dir,
        "config": config,
        "file_format": "array_record",
    }
    builder = EmbeddedImages(**arguments)
    try:
        builder.download_and_prepare()
    except OSError:
        # Another process may have prepared it meanwhile: its directory is in the way of ours, and
        # holds the same images.
        builder = EmbeddedImages(**arguments)
        if not builder.is_prepared():
            raise
    return builder
