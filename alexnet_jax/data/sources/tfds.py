"""Prepared TFDS datasets of labelled images, read by index and without TensorFlow."""

import os
import shlex
from collections.abc import Sequence
from typing import Any

from alexnet_jax.data.sources.record import LeftOut, Record, Source
from alexnet_jax.errors import UserError

FILE_NAME_KEYS = ("file_name", "filename", "image/filename")  # what TFDS's own datasets call it
# Of every `tfds` command, `tfds --help` included.
NEEDS_TENSORFLOW = "(TensorFlow is needed for that, not for reading: `pip install tensorflow`)"


class EncodedSplit:
    """A TFDS data source whose images stay encoded."""

    def __init__(
        self,
        split: str,
        records: Sequence[Any],
        image_key: str,
        label_key: str,
        name_key: str,
        files: Sequence[Any] = (),
    ):
        self._split = split
        self._records = records
        self._image_key = image_key
        self._label_key = label_key
        self._name_key = name_key  # '' where the dataset keeps no file names
        self._files = [os.fspath(file) for file in files]

    def __len__(self) -> int:
        return len(self._records)

    def files(self) -> list[str]:
        return self._files

    def __getitem__(self, index: int) -> Record:
        name = f"{self._split}[{index}]"
        try:
            record = self._records[index]
        except (RuntimeError, ValueError) as error:  # ArrayRecord's reader, for a damaged file
            raise OSError(f"{name}: {error}") from error
        label, content = record[self._label_key], record[self._image_key]
        if label is None or content is None:  # what it gives of a file cut off at a block's end
            raise OSError(f"{name}: the record is empty")
        if self._name_key:
            text = record[self._name_key]
            name = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        return Record(name, int(label), content)


def open_tfds(name: str, data_dir: str) -> Source:
    """Opens a prepared TFDS dataset, `NAME[/config][:version]`, without TensorFlow.

    It is rebuilt from its own files, so the code that made it is not needed.
    Splits without labels (imagenet2012's test split has -1 everywhere) are left out.

    Raises:
        UserError: if it is not prepared under `data_dir`, not as ArrayRecord, or is no
            classification of images.
    """
    from tensorflow_datasets.core import read_only_builder, registered

    try:
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except (registered.DatasetNotFoundError, ValueError) as error:
        raise UserError(
            f"tfds:{name} is not prepared under {data_dir}: {_prepare_command(name, data_dir)}, or "
            "give the directory where it is (--config.data.dir, or --data_dir of "
            "alexnet_jax.prepare)"
        ) from error
    return source_from_builder(builder, f"tfds:{name}", _prepare_command(name, data_dir))


def source_from_builder(builder: Any, name: str, make_again: str) -> Source:
    """Makes a source of a prepared TFDS builder that has one image and one class-label feature.

    Args:
        builder: of the dataset.
        name: of the source.
        make_again: what to do where it is damaged, after deleting it.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    image_key = _only_feature(features, tfds.features.Image, name)
    label_key = _only_feature(features, tfds.features.ClassLabel, name)
    name_key = next((key for key in FILE_NAME_KEYS if key in features), "")
    try:
        data = builder.as_data_source(decoders={image_key: tfds.decode.SkipDecoding()})
    except (NotImplementedError, ValueError) as error:
        # Building it anew would take the dataset's sources once more, perhaps a day's download.
        directory = shlex.quote(str(builder.data_dir))
        raise UserError(
            f"{name} is prepared in {builder.data_dir}, but not as ArrayRecord, the format that is "
            "read by index: write that beside it by "
            f"`tfds convert_format --dataset_version_dir={directory} "
            f"--out_file_format=array_record` {NEEDS_TENSORFLOW}"
        ) from error
    left_out = LeftOut()
    try:
        splits = {
            split: EncodedSplit(
                split,
                records,
                image_key,
                label_key,
                name_key,
                builder.info.splits[split].filepaths,
            )
            for split, records in data.items()
            if len(records)
        }
        for split in [split for split, records in splits.items() if records[0].label < 0]:
            left_out.add("without labels", f"the split {split}", len(splits.pop(split)))
    except (RuntimeError, OSError) as error:  # not a whole file; or its first image is damaged
        raise UserError(
            f"{name} in {builder.data_dir} is damaged ({error}): delete it and {make_again}"
        ) from error
    counts = ", ".join(f"{split} {len(records)}" for split, records in sorted(splits.items()))
    return Source(
        name=name,
        class_names=tuple(features[label_key].names),
        splits=splits,
        identity=f"{builder.info.full_name}: {counts}",
        left_out=left_out,
    )


def _only_feature(features: Any, kind: type, name: str) -> str:
    """The key of the only feature of a kind; `image` and `label` win where there are several."""
    keys = [key for key, feature in features.items() if isinstance(feature, kind)]
    preferred = [key for key in keys if key in ("image", "label")] or keys
    if len(preferred) != 1:
        raise UserError(
            f"{name} is not an image-classification dataset: expected one {kind.__name__} feature, "
            f"found {keys}"
        )
    return preferred[0]


def _prepare_command(name: str, data_dir: str) -> str:
    return (
        f"run `tfds build {name.split(':')[0]} --file_format=array_record "
        f"--data_dir={shlex.quote(data_dir)}` {NEEDS_TENSORFLOW}"
    )
