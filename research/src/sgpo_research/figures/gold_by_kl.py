"""Gold against the divergence from the SFT model: a method is better only where it is above the others' curve."""

from matplotlib.figure import Figure

from sgpo_research.figures.panels import curve, key, legend_below, panels, unique
from sgpo_research.figures.style import FAINT, looks, styled
from sgpo_research.summary import Row


@styled
def gold_by_kl(rows: list[Row]) -> Figure:
    """Rows of labels, seed, method, policy, kl (nats) and gold: a panel for each annotator, a curve for each run.

    A curve goes from the SFT model over round 0 to the last round; a run's last DPO on human pairs is a point apart.
    """
    titles = unique(row["labels"] for row in rows)
    look = looks(row["method"] for row in rows)
    figure, found = panels(titles, columns=3, height=3.3)
    for axes, title in zip(found, titles, strict=True):
        here = [row for row in rows if row["labels"] == title]
        for method, one in look.items():
            mine = [row for row in here if row["method"] == method]
            for seed in unique(row["seed"] for row in mine):
                run = [row for row in mine if row["seed"] == seed]
                rounds = [row for row in run if row["policy"] != "final"]
                axes.plot([row["kl"] for row in rounds], [row["gold"] for row in rounds], color=one.colour,
                          linestyle=one.line, linewidth=1, marker=one.marker, markersize=3.5, alpha=0.8)  # fmt: skip
                for row in run:
                    if row["policy"] == "final":
                        curve(axes, [row], "kl", "gold", one._replace(marker="*"))
        axes.axhline(here[0]["gold"], color=FAINT, linewidth=1, zorder=1)
        axes.set_xlabel("KL to the SFT model (nats)")
    figure.supylabel("share of constraints that hold")
    legend_below(figure, [key(one, name) for name, one in look.items()])
    return figure
