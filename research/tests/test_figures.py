"""Figures of the study show what the rows say, and the same rows give the same bytes."""

import itertools
import math

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from sgpo_research.figures import dots, radius, rounds, theory, worst_cells
from sgpo_research.figures.style import as_svg, looks
from sgpo_research.methods import METHODS, MORE_LABELS
from sgpo_research.registry import study_tables

_KEYS = {
    "world": ["benign", "derailing"],
    "noise": ["none", "symmetric 25%"],
    "method": list(METHODS)[:6],
    "regime": ["benign", "derailing"],
    "round": [0, 1, 2, 3],
    "step": ["envelope", "transport"],
    "rule": ["0", "0.01", "0.03", "0.05", "0.6", "measured", "validated"],
    "choice": ["random", "farthest"],
    "pairs": [50, 100, 200],
    "criterion": ["deflated", "likelihood"],
    "radius": [0.0, 0.1, 0.4],
    "leader": ["DPO", "SGPO"],
    "shift": [0.02, 0.1, 0.8],
    "path": ["proximal", "gradient"],
    "iteration": [1, 2, 3],
}
DRAWN = {name: table for name, table in study_tables().items() if table.figure is not None}


def value_of(place):
    return 0.2 + 0.6 * math.modf(place * 0.6180339887)[0]


def rows_of(table, *, interval=0.03, **changes):
    """Rows of every combination of the table's keys; without an interval they are those of one seed."""
    rows, keys = [], _KEYS | changes
    for place, key in enumerate(itertools.product(*(keys[name] for name in table.by))):
        row = dict(zip(table.by, key, strict=True)) | {"seeds": 1 if interval is None else 9}
        for measure in table.measures:
            half = math.nan if interval is None else interval
            value = value_of(place)
            row |= {measure: value, f"{measure}_low": value - half, f"{measure}_high": value + half}
        rows.append(row)
    return rows


def intervals(figure):
    """How many intervals and bands a figure shows."""
    bars = [segment for found in figure.findobj(LineCollection) for segment in found.get_segments()]
    bands = [path for found in figure.findobj(PolyCollection) for path in found.get_paths() if len(path.vertices)]
    return len(bars) + len(bands)


def test_the_tables_that_are_curves_dots_or_maps_have_a_figure():
    expected = (
        "table1 table3 table5 figure2 seeds held-out worst-case theory-value theory-regret theory-rate text-world"
    )
    assert set(DRAWN) == set(expected.split())


def test_the_same_rows_give_the_same_bytes_whatever_matplotlib_was_told():
    for table in DRAWN.values():
        rows = rows_of(table)
        before = as_svg(table.figure(rows), table.title)
        with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": None}):
            assert as_svg(table.figure(rows), table.title) == before, table.name
        assert "<dc:date>" not in before, table.name


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    for table in DRAWN.values():
        before = dict(matplotlib.rcParams)
        as_svg(table.figure(rows_of(table)), table.title)
        assert dict(matplotlib.rcParams) == before, table.name


def test_one_seed_is_drawn_without_intervals():
    for table in DRAWN.values():
        with_interval, without = (table.figure(rows_of(table, interval=interval)) for interval in (0.03, None))
        assert "nan" not in as_svg(without, table.title).lower(), table.name
        assert intervals(without) == 0, table.name
        assert intervals(with_interval) > 0 or table.name == "worst-case", table.name


def test_a_measure_that_is_absent_leaves_a_gap_and_nothing_fails():
    for table in DRAWN.values():
        rows = rows_of(table)
        for measure in table.measures:
            for name in (measure, f"{measure}_low", f"{measure}_high"):
                del rows[0][name]
        rows[1] |= {measure: None for measure in table.measures}
        assert "nan" not in as_svg(table.figure(rows), table.title).lower(), table.name


def drawn_texts(figure):
    """The horizontal and vertical texts that a figure draws, with their boxes in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = []

    def draw_text(gc, x, y, said, font, angle, ismath=False, mtext=None):
        width, height, descent = renderer.get_text_width_height_descent(said, font, ismath)
        bottom = renderer.height - y
        if angle == 0:
            boxes.append((said, Bbox.from_bounds(x, bottom - descent, width, height)))
        elif angle == 90:
            boxes.append((said, Bbox.from_bounds(x + descent - height, bottom, height, width)))

    # Only what is drawn counts: an axis keeps labels outside its limits and does not draw them.
    renderer.draw_text = draw_text
    figure.draw(renderer)
    return boxes


def test_no_text_of_a_figure_lies_over_another_or_outside():
    for table in DRAWN.values():
        figure = table.figure(rows_of(table, method=list(METHODS)))
        boxes = drawn_texts(figure)
        assert len(boxes) > 10, table.name
        for text, box in boxes:
            inside = box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1
            assert inside, (table.name, text)
        for (one, first), (other, second) in itertools.combinations(boxes, 2):
            across = min(first.x1, second.x1) - max(first.x0, second.x0)
            along = min(first.y1, second.y1) - max(first.y0, second.y0)
            assert across <= 1 or along <= 1, f"{table.name}: {one!r} over {other!r}"


def test_all_methods_can_be_told_apart_and_the_first_seven_by_colour():
    found = looks(METHODS)
    assert len(set(found.values())) == len(METHODS)
    assert len({look.colour for look in list(found.values())[:7]}) == 7


def test_a_curve_and_its_band_are_the_rows_in_order_of_rounds():
    rows = [
        {"world": "benign", "noise": "none", "method": "SPA", "round": place, "win_rate": value,
         "win_rate_low": value - 0.02, "win_rate_high": value + 0.03}
        for place, value in ((2, 0.8), (0, 0.6), (1, 0.7))
    ]  # fmt: skip
    (axes,) = rounds.win_rate_by_round(rows).axes
    (band,) = axes.collections
    corners = {(round(x, 9), round(y, 9)) for x, y in band.get_paths()[0].vertices}
    curve = axes.lines[-1]
    assert list(zip(curve.get_xdata(), curve.get_ydata(), strict=True)) == [(0, 0.6), (1, 0.7), (2, 0.8)]
    assert corners == {(0, 0.58), (1, 0.68), (2, 0.78), (0, 0.63), (1, 0.73), (2, 0.83)}
    assert axes.get_xlabel() == "round (0: DPO on the seeds)"


def test_a_method_without_rounds_is_a_level_across_its_panel():
    rows = [
        {"world": world, "noise": "none", "method": method, "round": place, "win_rate": level + place / 10}
        for world, level in (("benign", 0.7), ("derailing", 0.4))
        for method, last in (("DPO on seeds", 0), ("iterative DPO", 3))
        for place in range(last + 1)
    ]
    for axes, level in zip(rounds.win_rate_by_round(rows).axes, (0.7, 0.4), strict=True):
        assert sorted(line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]) == sorted(
            [0.5, level]
        )


def test_a_rule_is_marked_at_the_radius_that_it_used_and_radii_are_in_order_of_size():
    rows = [
        {"world": "benign", "noise": "none", "step": "envelope", "rule": rule, "radius_used": used, "win_rate": rate}
        for rule, used, rate in (("0.6", 0.6, 0.7), ("0.05", 0.05, 0.8), ("0", 0.0, 0.75), ("measured", 0.13, 0.77))
    ]
    figure = radius.win_rate_by_radius(rows)
    (axes,) = figure.axes
    points = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.lines]
    assert [(0.0, 0.75), (0.05, 0.8), (0.6, 0.7)] in points
    assert [(0.13, 0.77)] in points
    assert "measured, at its mean radius" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_worst_cell_of_each_method_is_framed_and_sorts_it():
    (more,) = MORE_LABELS
    rates = {"SPA": (0.7, 0.3), "IPO": (0.45, 0.8), more: (0.9, 0.85)}
    rows = [
        {"world": world, "noise": "none", "method": method, "win_rate": rate}
        for method, pair in rates.items()
        for world, rate in zip(("benign", "real"), pair, strict=True)
    ]
    (axes,) = worst_cells.win_rate_by_cell(rows).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["IPO", "SPA", more]
    numbers = {text.get_position(): text.get_text() for text in axes.texts if text.get_text().startswith(".")}
    frames = sorted(
        (one for one in axes.patches if isinstance(one, Rectangle) and not one.get_fill()), key=lambda one: one.get_y()
    )
    framed = [
        said for frame in frames for (x, y), said in numbers.items()
        if 0 < x - frame.get_x() < 1 and 0 < y - frame.get_y() < 1
    ]  # fmt: skip
    assert framed == [".45", ".30", ".85"]
    # The first column repeats them.
    assert [said for (x, _), said in sorted(numbers.items(), key=lambda item: item[0][1]) if x == 0.5] == framed


def test_the_sft_policy_is_the_white_middle_of_the_colours():
    rows = [
        {"world": world, "noise": "none", "method": "SPA", "win_rate": rate}
        for world, rate in (("benign", 0.8), ("real", 0.5), ("spurious", 0.4))
    ]
    (axes,) = worst_cells.win_rate_by_cell(rows).axes
    red, green, blue = [[one.get_facecolor()[part] for one in axes.patches if one.get_fill()][1:] for part in (0, 1, 2)]
    assert blue[0] > red[0] and red[2] > blue[2]
    assert min(red[1], green[1], blue[1]) > 0.95


def test_the_bound_on_regret_leaves_the_frame_and_the_regrets_do_not():
    rows = rows_of(DRAWN["theory-regret"])
    for row in rows:
        row["bound"] = 10.0
    (axes,) = theory.regret_by_shift(rows).axes
    top = axes.get_ylim()[1]
    assert max(row["dpo_high"] for row in rows) < top < 2
    assert "nats" in axes.get_ylabel()


def test_dots_stand_on_the_line_of_their_method():
    rows = rows_of(DRAWN["table5"])
    benign, _ = dots.win_rate_by_method(rows).axes
    methods = [label.get_text() for label in benign.get_yticklabels()]
    shown = {
        (methods[round(float(line.get_ydata()[0]))], float(line.get_xdata()[0]))
        for line in benign.lines if len(line.get_xdata()) == 1
    }  # fmt: skip
    assert shown == {(row["method"], row["win_rate"]) for row in rows if row["world"] == "benign"}


def test_held_out_sizes_have_a_panel_for_each_cell_and_criterion():
    rows = rows_of(DRAWN["held-out"])
    figure = rounds.win_rate_by_held_out_pairs(rows)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert "derailing, symmetric 25%\ntuned by: likelihood" in titles
    axes = figure.axes[titles.index("derailing, symmetric 25%\ntuned by: likelihood")]
    mine = [
        row for row in rows
        if (row["world"], row["noise"], row["criterion"]) == ("derailing", "symmetric 25%", "likelihood")
    ]  # fmt: skip
    drawn = {(x, y) for line in axes.lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
    assert {(row["pairs"], row["win_rate"]) for row in mine} <= drawn
