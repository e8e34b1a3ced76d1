"""What the outputs of foreign weights are called: by a file, by ImageNet, or by their numbers."""

import json
from pathlib import Path

import convert_fixtures as other
import pytest

import alexnet_jax
from alexnet_jax.errors import UserError
from alexnet_jax.exchange.class_names import class_names
from alexnet_jax.exchange.converting import convert
from alexnet_jax.model import make_mesh

PLACES = "/a/airfield 0\n/a/amphitheater 2\n/b/bar/outdoor 1\n"
FILES = {
    "names with blanks": ("왕의 깃발\nold  cat\r\n  cat\n\n", ["왕의 깃발", "old cat", "cat"]),
    "Places365": (PLACES, ["airfield", "bar/outdoor", "amphitheater"]),
    "numbers that are no order": ("cat 1\ndog 2\nhen 3\n", ["cat 1", "dog 2", "hen 3"]),
    "numbers that are the names": ("No. 0\nNo. 1\nNo. 2\n", ["No. 0", "No. 1", "No. 2"]),
    "numbers alone": ("2\n0\n1\n", ["2", "0", "1"]),
    "not all numbered": ("cat 0\ndog 1\nhen\n", ["cat 0", "dog 1", "hen"]),
    "Caffe's synset_words.txt": (
        "n01440764 tench, Tinca tinca\nn01443537 goldfish\nn01484850 great white shark\n",
        ["n01440764", "n01443537", "n01484850"],
    ),
    "a mark of the byte order": ("\ufeffcat\ndog\nhen", ["cat", "dog", "hen"]),
}  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_files_of_names(file: str, tmp_path: Path) -> None:
    """A name in each line, in the order of the lines or of the numbers behind them."""
    text, expected = FILES[file]
    (tmp_path / "names.txt").write_bytes(text.encode())
    assert class_names(3, tmp_path / "names.txt") == expected


def test_without_a_file() -> None:
    """Of 1000 classes ImageNet's, which may be wrong; of others their numbers."""
    names = class_names(1000)
    assert names[0] == "n01440764" and names[999] == "n15075141"
    assert class_names(3) == ["class0", "class1", "class2"]


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    """Both numbers are said, and nothing is written."""
    path = other.bvlc_like().save(tmp_path / "a.onnx")
    names = tmp_path / "names.txt"
    names.write_text(PLACES)
    with pytest.raises(UserError, match=r"names.txt has 3 names, .* network has 10 outputs"):
        convert(path, tmp_path / "w", classes=names)
    names.write_bytes(b"caf\xe9\n" * 10)
    with pytest.raises(UserError, match=r"--classes=.*names.txt is not UTF-8"):
        convert(path, tmp_path / "w", classes=names)
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        convert(path, tmp_path / "w", classes=tmp_path / "none.txt")
    assert not (tmp_path / "w").exists()


def test_a_converted_network_answers_by_the_names(tmp_path: Path) -> None:
    """And says where it has them from."""
    path = other.bvlc_like().save(tmp_path / "a.onnx")
    (tmp_path / "names.txt").write_text("".join(f"/x/place {n} {n}\n" for n in range(10)))
    made = convert(path, tmp_path / "w", classes=tmp_path / "names.txt")
    assert made["class_names"] == "names.txt"
    assert json.loads((tmp_path / "w/converted.json").read_text())["class_names"] == "names.txt"
    loaded = alexnet_jax.load(tmp_path / "w", mesh=make_mesh(1, 1))
    assert loaded.classes == [f"place {n}" for n in range(10)]
