"""The three figures of the theory, on the finite game."""

from matplotlib.figure import Figure

from sgpo_research.figures.panels import bounds, curve, key, legend_below, number, panels, unique
from sgpo_research.figures.style import FAINT, INK, Look, looks, styled
from sgpo_research.summary import Row
from sgpo_research.theory.claims import RADIUS

_NARROW = 6.6  # inches, for a figure with one panel
_DASHED, _DOTTED = (0, (5, 2)), (0, (1, 1.5))


@styled
def value_lost_by_radius(rows: list[Row]) -> Figure:
    """Rows of radius, leader, lost and bound (nats)."""
    look = looks(row["leader"] for row in rows)
    figure, (axes,) = panels([""], columns=1, height=3.4, width=_NARROW)
    handles = []
    for name, one in look.items():
        mine = [row for row in rows if row["leader"] == name]
        bound = one._replace(line=_DASHED)
        curve(axes, mine, "radius", "lost", one)
        curve(axes, mine, "radius", "bound", bound, markers=False)
        handles += [key(one, f"{name}: lost"), key(bound, f"{name}: bound", marker=False)]
    axes.set(xlabel="radius (distance of features)", ylabel="value lost to the worst law (nats)", xlim=0, ylim=0)
    legend_below(figure, handles)
    return figure


@styled
def regret_by_shift(rows: list[Row]) -> Figure:
    """Rows of shift, dpo, sgpo and bound (nats). The much larger bound leaves the frame."""
    names = {"dpo": "DPO", "sgpo": f"SGPO, radius {RADIUS:g}"}
    look = looks(names)
    dashed = Look(INK, "", _DASHED)
    figure, (axes,) = panels([""], columns=1, height=3.4, width=_NARROW)
    for measure, one in look.items():
        curve(axes, rows, "shift", measure, one)
    curve(axes, rows, "shift", "bound", dashed, markers=False)
    inside = axes.axvline(RADIUS, color=FAINT, linestyle=_DOTTED, linewidth=1.2, zorder=1)
    inside.set_label("end of SGPO's ball")
    tops = [max(bounds(row, name) or [number(row, name) or 0.0]) for row in rows for name in names]
    axes.set(
        xlabel="shift δ (distance of features)", ylabel="largest regret (nats)", xlim=0,
        ylim=(0, 1.08 * max(tops) or None),
    )  # fmt: skip
    handles = [key(one, names[measure]) for measure, one in look.items()]
    legend_below(figure, [*handles, key(dashed, "bound for both", marker=False), inside])
    return figure


@styled
def distance_by_iteration(rows: list[Row]) -> Figure:
    """Rows of path, iteration and log10_distance; a straight line is a linear rate. One panel per path."""
    paths = unique(row["path"] for row in rows)
    look = looks(paths)
    figure, found = panels([f"{path} steps" for path in paths], columns=len(paths), height=3.1, share_x=False)
    for axes, path in zip(found, paths, strict=True):
        mine = [row for row in rows if row["path"] == path]
        curve(axes, mine, "iteration", "log10_distance", look[path], markers=False)
        axes.set_xlabel("step of the leader")
    # Framed by the lines, since with few seeds the bands are far wider.
    heights = [value for row in rows if (value := number(row, "log10_distance")) is not None]
    found[0].set_ylim(min(heights) - 1, max(heights) + 0.5)
    figure.supylabel("distance to the equilibrium (log10)")
    return figure
