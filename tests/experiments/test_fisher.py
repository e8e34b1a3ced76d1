"""SIFT and Fisher vectors: the vector is the gradient that it is said to be, and tells images
apart."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.mixture import GaussianMixture

from experiments import fisher


def test_the_fisher_vector_is_the_gradient_of_the_likelihood() -> None:
    """By central differences of scikit-learn's own score, over the root of the information of
    mixture components far apart: weight / variance for means, 2 weight / variance for deviations.
    """
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [40, 5], [-30, 20]])
    points = rng.normal(centres[rng.integers(0, 3, 900)], [1.0, 2.0])
    mixture = GaussianMixture(3, covariance_type="diag", random_state=0).fit(points)
    asked = points[rng.integers(0, 900, 50)] + 0.3

    def score(field: str, place: tuple[int, int], step: float) -> float:
        moved = GaussianMixture(3, covariance_type="diag")
        moved.weights_, moved.means_ = mixture.weights_, mixture.means_.copy()
        deviations = np.sqrt(mixture.covariances_)
        if field == "means":
            moved.means_[place] += step
        else:
            deviations[place] += step
        moved.covariances_ = deviations**2
        moved.precisions_cholesky_ = 1 / deviations
        return float(moved.score(asked))

    found = fisher.gradient(np.stack([points[:50], asked]), mixture)[1].reshape(2, 3, 2)
    for part, field in enumerate(("means", "deviations")):
        for place in np.ndindex(3, 2):
            slope = (score(field, place, 1e-4) - score(field, place, -1e-4)) / 2e-4
            information = (1 + part) * mixture.weights_[place[0]] / mixture.covariances_[place]
            assert found[part][place] == pytest.approx(slope / np.sqrt(information), abs=1e-5)


def picture(rng: np.random.Generator, kind: int) -> np.ndarray:
    """Stripes across or down, of any colour, under noise."""
    wave = np.sin(np.arange(64) * rng.uniform(0.6, 0.9) + rng.uniform(0, 6)) > 0
    grey = np.broadcast_to(wave if kind % 2 else wave[:, None], (64, 64))
    colour = np.array([200, 40, 40] if kind < 2 else [40, 40, 200])
    image = 90 + grey[..., None] * (colour - 90) + rng.normal(0, 10, (64, 64, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def images() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Two directions in two colours, for training and for the test."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 4
    drawn = np.stack([picture(rng, kind) for kind in labels])
    return (drawn[:80], labels[:80]), (drawn[80:], labels[80:])


def test_directions_and_colours_are_told_apart(
    images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chance is 75%; either descriptor alone could not do better than half."""
    monkeypatch.setattr(fisher, "SAMPLE", 4000)
    monkeypatch.setattr(fisher, "GAUSSIANS", 4)
    found = fisher.run(*images, seed=0)
    assert found["top1_error"] < 0.1


def test_grey_images_are_told_apart(images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their directions: what does not vary, of the colours, is left out."""
    monkeypatch.setattr(fisher, "SAMPLE", 4000)
    monkeypatch.setattr(fisher, "GAUSSIANS", 4)
    grey = [(np.repeat(pictures[..., :1], 3, axis=3), labels % 2) for pictures, labels in images]
    assert fisher.run(*grey, seed=0)["top1_error"] < 0.1


def test_descriptors_of_every_patch(images: Any) -> None:
    """As many of both kinds; SIFT is rooted, of norm 1; nothing of a flat patch is not a number."""
    sift, colours = fisher.descriptors(images[0][0][0])
    assert sift.shape == (len(colours), 128) and colours.shape[1] == 96
    np.testing.assert_allclose((sift**2).sum(axis=1), 1, atol=1e-3)
    flat, _ = fisher.descriptors(np.full((64, 64, 3), 7, np.uint8))
    assert np.isfinite(flat).all()


def test_the_colour_of_a_patch_is_that_of_its_place() -> None:
    """Red above, blue below: the cells' means say so."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, :, 0], image[32:, :, 2] = 255, 255
    _, colours = fisher.descriptors(image)
    red, blue = colours[0, :48].reshape(4, 4, 3)[..., [0, 2]].mean(axis=(0, 1))
    assert red > 0.9 and blue < 0.1
    red, blue = colours[-1, :48].reshape(4, 4, 3)[..., [0, 2]].mean(axis=(0, 1))
    assert red < 0.1 and blue > 0.9


def test_a_patch_is_what_its_descriptor_sees() -> None:
    """Of a flat image with one bright pixel: nothing from farther than half a cell, and what
    OpenCV's smoothing carries (7 pixels), outside; and whatever is inside."""
    image = np.full((64, 64, 3), 100, np.uint8)
    image[31, 31] = 200
    found, _ = fisher.descriptors(image)
    seen = iter(np.any(found > 0, axis=1))
    for size, starts in fisher.grids(64):
        middles = starts + (size - 1) / 2
        for y in middles:
            for x in middles:
                away = max(abs(x - 31), abs(y - 31))
                saw = next(seen)
                assert not saw or away <= size / 2 + size / 8 + 7
                assert saw or away > size / 2 - 1
