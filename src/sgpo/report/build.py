"""Writes the report page of a run."""

import shlex
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sgpo.report.alerts import find_alerts
from sgpo.report.figures import draw_figures
from sgpo.report.read import RunRecord, read_run
from sgpo.report.story import pair_flow, shipping_evidence, shipping_sentence, stage_times, tell_story
from sgpo.report.table import summary_rows
from sgpo.report.verdict import judge
from sgpo.store.files import write_atomically


def write_report(directory: str | Path) -> Path:
    """Writes report.html into a run directory, finished or not, and returns its path.

    The page is one file without scripts or external resources. The same run gives the same bytes.

    Raises:
        InputError: no run there, or a damaged file.
    """
    return write_atomically(Path(directory) / "report.html", render_report(read_run(directory)))


def render_report(record: RunRecord) -> str:
    """The page as HTML. Every text of the run is escaped: responses come from a model and are not to be trusted."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = {metrics.round: metrics.name for metrics in record.rounds}
    sampled = max(record.samples, default=None)
    if record.shipped and record.rounds and record.judged_round.round in record.samples:
        sampled = record.judged_round.round
    versions = {"sgpo": record.manifest.sgpo, **record.manifest.versions}
    return environment.get_template("page.html").render(
        record=record,
        story=tell_story(record),
        shipping=shipping_sentence(record),
        verdict=judge(record),
        alerts=find_alerts(record),
        summary=summary_rows(record),
        pictures=draw_figures(record),
        samples=record.samples.get(sampled, {}),
        sampled=names.get(sampled),
        flow=pair_flow(record),
        evidence=shipping_evidence(record),
        times=stage_times(record),
        command=shlex.join(record.manifest.command),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        recipe=yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True),
    )
