"""Writes the page of a run."""

import shlex
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sgpo.report.alerts import find_alerts
from sgpo.report.figures import draw_figures
from sgpo.report.read import RunRecord, read_run
from sgpo.report.story import pair_flow, shipping_evidence, stage_times, tell_story
from sgpo.report.table import html_table, summary_rows
from sgpo.report.verdict import judge
from sgpo.store.run_dir import write_atomically


def write_report(directory: str | Path) -> Path:
    """Writes report.html into a run directory, finished or not, and returns its path.

    The page is one file without scripts or links to fetch. The same run gives the same bytes.

    Raises:
        InputError: no run there, or a damaged file.
    """
    record = read_run(directory)
    path = Path(directory) / "report.html"
    write_atomically(path, render_report(record))
    return path


def render_report(record: RunRecord) -> str:
    """The page as HTML. Every text of the run is escaped: responses come from a model and are not to be trusted."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    summary = summary_rows(record)
    sampled = max((t for t, rows in record.samples.items() if rows), default=None)
    if record.shipped and record.rounds and record.samples.get(record.judged_round["round"]):
        sampled = record.judged_round["round"]
    names = {metrics["round"]: metrics["name"] for metrics in record.rounds}
    versions = {"sgpo": record.manifest.get("sgpo", "?"), **(record.manifest.get("versions") or {})}
    return environment.get_template("page.html").render(
        record=record,
        story=tell_story(record),
        verdict=judge(record),
        alerts=find_alerts(record),
        table=html_table(summary),
        columns=summary.columns[1:],
        pictures=draw_figures(record),
        samples=record.samples.get(sampled, []),
        samples_name=names.get(sampled, f"round {sampled}"),
        flow=pair_flow(record),
        evidence=shipping_evidence(record),
        times=stage_times(record),
        command=shlex.join(record.manifest.get("command") or []),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        recipe=yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True),
    )
