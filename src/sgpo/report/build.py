"""Writes the report page of a run."""

import shlex
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sgpo.report import story
from sgpo.report.alerts import find_alerts
from sgpo.report.figures import draw_figures
from sgpo.report.quantities import find_quantities
from sgpo.report.read import read_run
from sgpo.report.table import summary_rows
from sgpo.report.verdict import judge, judge_shipping
from sgpo.store.files import write_atomically


def write_report(directory: str | Path) -> Path:
    """Writes report.html, one file without scripts or external resources, into a run directory, finished or not, and
    returns its path. The same run gives the same bytes."""
    record = read_run(directory)
    # Every text of the run is escaped: responses come from a model and are not to be trusted.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    judged = record.judged_round.round if record.rounds else None
    sampled = judged if judged in record.samples else max(record.samples, default=None)
    versions = {"sgpo": record.manifest.sgpo, **record.manifest.versions}
    page = environment.get_template("page.html").render(
        record=record,
        story=story.tell_story(record),
        method=story.tell_method(record.config),
        missing=story.tell_missing(record),
        made=story.tell_made(record),
        shipping=judge_shipping(record),
        verdict=judge(record),
        alerts=find_alerts(record),
        quantities=find_quantities(record),
        rows=summary_rows(record),
        pictures=draw_figures(record),
        samples=record.samples.get(sampled, {}),
        sampled=next((metrics.name for metrics in record.rounds if metrics.round == sampled), None),
        parts=story.reward_parts(record),
        flow=story.pair_flow(record),
        evidence=story.shipping_evidence(record),
        times=story.stage_times(record),
        command=shlex.join(record.manifest.command),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        recipe=yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True),
    )
    # A file name on the command line may not be UTF-8, and a page has to be.
    return write_atomically(Path(directory) / "report.html", page.encode("utf-8", "replace").decode())
