"""The report of a calibration."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.report.calibration import calibration_report
from lynxstop.report.labels import label_points
from lynxstop.report.page import COLOURS, Page, figure


def test_report_is_one_self_contained_page(simulated):
    # given a calibration with a level that is refused
    page = calibration_report(
        calibrate(simulated(300, groups=True), CalibrationOptions(risks=[0.001, 0.1], by="topic"))
    )
    # then four figures, the promise and what is missing are in it, and nothing is loaded from elsewhere
    assert page.count("<svg") == 4
    assert "With confidence 95%" in page
    assert "more problems are needed" in page
    assert not re.search(r"<script|<link|<img|@import|url\(http|src=", page)
    assert "prefers-color-scheme: dark" in page
    # and colours are the page's own
    assert not any(colour in page for colour in COLOURS)


@pytest.mark.parametrize("method", ["lynx", "split", "hoeffding_bentkus"])
def test_report_without_tokens_or_exits(simulated, method):
    table = simulated(5)
    bare = type(table)(**{**vars(table), "tokens": None, "full_tokens": None})
    page = calibration_report(calibrate(bare, CalibrationOptions(risks=[0.01], method=method)), logits=True)
    assert page.count("<svg") == 3


def test_the_same_calibration_gives_the_same_page(simulated):
    made = calibrate(simulated(100), CalibrationOptions(risks=[0.1]))
    assert calibration_report(made) == calibration_report(made)


def test_text_is_escaped():
    page = Page("<b>", lead="a & b")
    page.table(["<th>"], [["<td>"]])
    page.text("<script>")
    page.figures(figure("<f>", "<c>", lambda axes: axes.plot([0, 1], [0, 1], color=COLOURS[0])))
    assert not re.search(r"<b>|<script>|<f>|<c>|<td><td>", page.render())


def test_labels_cover_neither_points_nor_each_other():
    # given certified levels close together on a curve
    x = np.linspace(0, 1, 50)
    points = [(0.50, 0.50), (0.505, 0.505), (0.51, 0.51), (0.99, 0.99)]
    drawn = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = drawn.add_subplot()
    axes.plot(x, x)
    # when they are labelled
    label_points(axes, points, ["1%", "2%", "5%", "10%"], np.stack([x, x], axis=1))
    # then each label stands alone, inside the axes, on no point
    drawn.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 4
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert not any(box.contains(*place) for place in axes.transData.transform(points))
        assert axes.bbox.fully_containsx(box.x0)
        assert axes.bbox.fully_containsx(box.x1)


def test_a_page_fits_a_phone_and_prints_light():
    text = Page("a").render()
    assert "minmax(min(22rem, 100%), 1fr)" in text
    assert "@media screen and (prefers-color-scheme: dark)" in text
    assert "@media print" in text
