"""Colours of classes: distinct also for colour-blind people, with ink that is legible on each."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from cledet.visualization.palette import BLACK, HUES, WHITE, class_color, contrast, ink_on


def test_contrast_is_that_of_wcag():
    assert contrast(BLACK, WHITE) == pytest.approx(21)
    assert contrast((119, 119, 119), WHITE) == pytest.approx(4.48, abs=0.01)  # the known gray just below 4.5
    assert contrast(WHITE, (118, 118, 118)) == pytest.approx(4.54, abs=0.01)


def test_text_on_every_color_has_the_contrast_of_wcag_aa():
    for label in range(21):
        color = class_color(label)
        assert contrast(color, ink_on(color)) >= 4.5
    gray = range(0, 256, 15)
    assert min(contrast(c, ink_on(c)) for c in ((r, g, b) for r in gray for g in gray for b in gray)) >= 4.5


def test_the_first_colors_are_those_of_okabe_and_ito():
    assert [class_color(i) for i in range(7)] == list(HUES)
    assert len({class_color(i) for i in range(21)}) == 21
    assert class_color(21) == class_color(0)


DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)


@pytest.mark.parametrize("matrix", [DEUTERANOPIA, PROTANOPIA], ids=["deuteranopia", "protanopia"])
def test_neighbouring_colors_differ_for_colour_blind_people(matrix):
    """Simulation of Machado, Oliveira and Fernandes (2009), severity 1, in linear RGB; distance in sRGB, 0 to 441."""

    def seen(color):
        linear = np.power(np.array(color) / 255, 2.2)
        return 255 * np.power(np.clip(matrix @ linear, 0, 1), 1 / 2.2)

    colors = [seen(class_color(i)) for i in range(21)]
    assert min(np.linalg.norm(a - b) for a, b in pairwise(colors)) > 60
    first = colors[:7]
    assert min(np.linalg.norm(a - b) for i, a in enumerate(first) for b in first[:i]) > 35
