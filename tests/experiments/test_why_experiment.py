"""The pointing game counts what it says, in the pixels that the network sees."""

import cv2
import numpy as np
import pytest
from asked_fixtures import network, squares

from alexnet_jax.data.sources import dead_leaves
from alexnet_jax.data.sources.dead_leaves import Drawing
from alexnet_jax.evaluation import why
from experiments import why as experiment


def explained(row: int, column: int, pixel: tuple[int, int]) -> why.Explanation:
    """One whose square takes most at a place, and whose saliency is one pixel; 40 pixels a side."""
    under = np.ones((3, 3))
    under[row, column] = 0
    saliency = np.zeros((40, 40), np.float32)
    saliency[pixel] = 1
    square = why.Occlusion(8, np.array([0, 16, 32]), under)
    nothing = np.zeros((40, 40, 3), np.uint8)
    return why.Explanation(nothing, np.ones(2) / 2, 0, square, saliency, np.zeros((0, 2)), {})


def test_a_game_by_hand() -> None:
    """Three images: the squares' middles are 4, 20 and 36, and every share can be counted."""
    found = [explained(0, 2, (5, 30)), explained(1, 1, (0, 0)), explained(2, 0, (39, 0))]
    boxes = np.array([[[25, 0], [40, 15]], [[10, 10], [30, 30]], [[10, 10], [30, 30]]], float)
    game = experiment.game(found, boxes, "occlusion")
    # (36, 4) and (20, 20) lie in their boxes, (4, 36) does not; of six other pairs one does.
    assert game.hits == [True, True, False]
    assert (game.images, game.found, game.others) == (3, pytest.approx(2 / 3), pytest.approx(1 / 6))
    assert game.blindly == pytest.approx(1 / 9) and game.middle == pytest.approx(2 / 3)
    assert 0.2 < game.low < 2 / 3 < game.high < 0.95
    game = experiment.game(found, boxes, "saliency")
    assert (game.found, game.others) == (pytest.approx(1 / 3), 0)
    assert game.blindly == pytest.approx((15 * 15 + 2 * 20 * 20) / (3 * 1600))


def test_the_same_images_are_compared_with_drawn_weights() -> None:
    """Eight are found by the trained network alone, two by the other alone: p of 10 coins."""
    both, neither = [True] * 5, [False] * 5
    rows = [
        {"network": name, "objects": "hard", "map": "occlusion", "hits": [*both, *neither, *hits]}
        for name, hits in (("trained", [True] * 8 + [False] * 2),
                           ("drawn weights", [False] * 8 + [True] * 2))
    ]  # fmt: skip
    other = rows[1] | {"map": "saliency", "hits": [False] * 20}
    assert experiment.against_drawn(rows[0], [*rows, other]) == "+30.0, p = 0.11"
    assert experiment.against_drawn(rows[1], rows) == ""


def test_saliency_in_squares() -> None:
    """A square with many pale pixels outdoes one with a single bright one."""
    found = explained(0, 0, (20, 3))
    found.saliency[33:38, 18:22] = 0.2
    assert experiment.place_of(found, "saliency") == (3.5, 20.5)
    assert experiment.place_of(found, "saliency in squares") == (20, 36)
    assert experiment.in_squares(found.saliency, found.occlusion)[2, 1] == pytest.approx(4)
    np.testing.assert_array_equal(experiment.possible(found, "saliency in squares"), [4, 20, 36])


@pytest.mark.parametrize(("height", "width"), [(150, 210), (240, 160), (130, 130)])
def test_the_box_in_what_the_network_sees(height: int, width: int) -> None:
    """A white square, through the program's own decoding and view, lies where it is said to lie."""
    side = min(height, width)
    left, top = (width - side) // 2 + side // 5, (height - side) // 2 + side // 3
    box = np.array([[left, top], [left + side // 2, top + side // 2]])
    picture = np.zeros((height, width, 3), np.uint8)
    picture[box[0, 1] : box[1, 1], box[0, 0] : box[1, 0]] = 255
    _, png = cv2.imencode(".png", picture)
    (seen,) = network().pictures(png.tobytes())
    rows, columns = np.nonzero(why.view_of(network(), seen)[..., 0] > 127)
    measured = [[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]
    found = experiment.box_in_view(network(), Drawing(picture, 0, box))
    np.testing.assert_allclose(found, measured, atol=1.01)
    whole = np.array([[0, 0], [width, height]])
    every = experiment.box_in_view(network(), Drawing(picture, 0, whole))
    np.testing.assert_array_equal(every, [[0, 0], [96, 96]])


def test_drawn_weights_are_others() -> None:
    """The same network otherwise, and the one that was given stays as it is."""
    before = network().logits(squares(1))
    other = experiment.untrained(network())
    assert np.abs(other.logits(squares(1)) - before).max() > 1e-3
    np.testing.assert_array_equal(network().logits(squares(1)), before)


def test_images_that_are_answered_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them, each with its own picture and box; beside the middle none lies over it."""
    asked = network()

    def answered(picture: np.ndarray) -> np.ndarray:
        seen.append(picture)
        return np.eye(20)[[(len(seen) - 1) // 2 * 2 % 20]]  # rightly for every other number

    for kind, numbers in (("easy", [0, 2, 4]), ("hard", [0, 2, 4])):
        seen: list[np.ndarray] = []
        monkeypatch.setattr(asked, "predict", answered)
        found = list(experiment.right(asked, kind, 6))
        assert [one.number for one in found] == [one.label for one in found] == numbers
        expected = asked.pictures(dead_leaves.encode("test", 2, kind))[0]
        np.testing.assert_array_equal(found[1].picture, expected)
    monkeypatch.setattr(asked, "predict", lambda _: np.eye(20)[[7]])
    found = list(experiment.right(asked, "hard, beside the middle", 300))
    assert found and all(one.label == 7 and one.number % 20 == 7 for one in found)
    middle = asked.viewer.crop / 2
    for one in found:
        (left, top), (end, bottom) = one.box
        assert not (left <= middle < end and top <= middle < bottom)
    assert len(found) < len(list(experiment.right(asked, "hard", 300)))
