"""From another program's weights and a folder of two classes to a network that knows them."""

import shlex
from pathlib import Path

import convert_fixtures as other
import cv2
import network_fixtures as fixtures
import numpy as np
import pytest
import run_fixtures
from run_fixtures import Tiny

import alexnet_jax
from alexnet_jax import settings
from alexnet_jax.convert import main as convert
from alexnet_jax.errors import UserError
from alexnet_jax.exchange import model_card
from alexnet_jax.linear import main as linear
from alexnet_jax.training import linear as library

CLASSES = ("cat", "왕의 깃발")
COUNT = 15  # images of each


def write_photos(root: Path) -> None:
    """Noise of one colour or another in CLASS/NUMBER.png."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(COUNT):
            image = rng.integers(0, 120, (48, 64, 3), dtype=np.uint8)
            image[..., 2 * label] += 120
            cv2.imwrite(str(root / name / f"{number}.png"), image)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to be in, with photos/."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    return tmp_path


def test_the_command_that_convert_prints(tiny: Tiny, place: Path, capsys) -> None:
    """As it is but for its length, conv1 frozen and conv2 slow; what is said, and what is learned;
    and beside it a linear classifier on the same images."""
    other.saved(other.torchvision_arrays(), place / "alexnet.safetensors")
    assert convert(["alexnet.safetensors", "--out=W"]) == 0
    printed = capsys.readouterr().out.replace("\\\n", "").splitlines()  # a line goes on in the next
    (line,) = (line for line in printed if "=finetune" in line)
    command = shlex.split(line)
    assert command[:3] == ["python", "-m", "alexnet_jax.main"]
    paces = ("--config.optim.rates.conv1=0", "--config.optim.rates.conv2=0.1")
    done = tiny.run(*command[3:], *paces, "--config.epochs=1", cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.splitlines()
    assert printed[:3] == [
        "from W: the network, data.size=256",
        "from folder:photos: model.classes=2, data.holdout=6.0,",
        "  data.validation=validation, data.test=validation, batch_size=8, mesh.data=1",
    ]
    start = printed.index("first weights, from step 0 of W:")
    assert printed[start + 1 : start + 9] == [
        "conv1: taken, frozen",
        "conv2: taken, at 0.1 times the rate",
        *(f"{name}: taken" for name in ("conv3", "conv4", "conv5", "fc6", "fc7")),
        "fc8: new (the last layer)",
    ]
    assert max(map(len, printed[:11])) <= 80
    theirs = run_fixtures.arrays(place / "W/checkpoints/0")
    ours = run_fixtures.arrays(place / "W2/checkpoints/3")
    for name, array in theirs.items():
        if "fc8" not in name:
            assert (ours[name].tobytes() == array.tobytes()) == ("conv1" in name), name

    assert linear(["--workdir=W2", "--out=W3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        f"fc7/activation of {place / 'W'}: 24 numbers of each image",
        "24 training images; the test (validation) has 6",
        "linear classifier: top-1 error 0.00% in one view (95%: 0.00% to 39.03%)",
    ]
    assert said[3].startswith("fine-tuned, W2: top-1 error ")
    network = alexnet_jax.load("W3")
    assert network.class_names == list(CLASSES)
    files = [f"photos/{name}/{number}.png" for name in CLASSES for number in range(COUNT)]
    assert (network.predict(files).argmax(1) == np.repeat([0, 1], COUNT)).all()
    before = alexnet_jax.load("W").features(files, "fc7")
    np.testing.assert_array_equal(network.features(files, "fc7"), before)
    assert settings.read(Path("W3/config.json")).data == settings.read(Path("W2/config.json")).data
    assert model_card.origin(network) == (
        "A linear classifier on fc7/activation of another network, `W`, fitted to 24 images of "
        "`folder:photos`."
    )


def test_the_linear_classifier_is_a_minimum(rng: np.random.Generator) -> None:
    """Of what logistic regression minimizes, by its gradient in float64: nothing of scikit-learn.
    The features are of any size, and the strength is among those that may be chosen."""
    labels = rng.permutation(np.repeat([0, 1, 2], 40))
    features = 100 * (rng.normal(0, 1, (120, 5)) + np.eye(3, 5)[labels])
    found = library.fit(np.float32(features), labels, ("a", "b", "c"))
    assert found.strength in library.STRENGTHS
    assert found.error(features, labels) < 0.4
    scale = np.linalg.norm(features, axis=1).mean()
    assert gradient(features / scale, labels, found.kernel * scale, found) < 1e-2


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_linear_classifier_of_two_classes_and_few_images(
    rng: np.random.Generator, count: int
) -> None:
    """One column for scikit-learn, two for a network; with one image each nothing can be chosen."""
    labels = np.repeat([0, 1], count)
    features = rng.normal(0, 1, (2 * count, 9)) + 9 * np.eye(2, 9)[labels]
    found = library.fit(np.float32(features), labels, ("a", "b"))
    assert found.kernel.shape == (9, 2) and found.error(features, labels) == 0
    assert (found.strength == library.USUAL) or count > 1
    with pytest.raises(UserError, match="there is no training image of c"):
        library.fit(np.float32(features), labels, ("a", "b", "c"))


def gradient(
    features: np.ndarray, labels: np.ndarray, kernel: np.ndarray, found: library.Classifier
) -> float:
    """Of C * loss + |kernel|² / 2, over that of C * loss at zeros; the largest number of each."""

    def of_loss(kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        powers = np.exp(features @ kernel + bias)
        powers /= powers.sum(1, keepdims=True)
        return found.strength * features.T @ (powers - np.eye(len(bias))[labels])

    start = of_loss(0 * kernel, 0 * found.bias)
    return float(np.abs(of_loss(kernel, found.bias) + kernel).max() / np.abs(start).max())


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers."""
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--workdir is missing"),
        (["--workdir=none"], "none holds no run"),
        (["--workdir=W"], "W did not start from other weights: name the images, such as --source="),
        (["--workdir=W", "--source=folder:none"], "none"),
        (["--workdir=W", "--source=folder:photos", "--out=photos"], "--out=photos is in use"),
    ],
)
def test_what_the_linear_classifier_refuses(
    place: Path, capsys, flags: list[str], words: str
) -> None:
    (place / "W").mkdir()
    settings.save(fixtures.small_config(), place / "W/config.json")
    with pytest.raises(SystemExit):
        linear(flags)
    assert words in capsys.readouterr().err
