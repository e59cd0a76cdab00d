import html
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib
import pytest
from rich.console import Console

from sgpo.errors import InputError
from sgpo.report.build import write_report
from sgpo.report.read import read_run
from sgpo.report.story import pair_flow, reward_parts, stage_times, tell_story
from sgpo.report.table import grid_table

VOID = {"meta", "br", "link", "img", "hr"}


class Outline(HTMLParser):
    """Which tags a page has, whether they nest, and the cells of its tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.tables, self.attributes = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


def page_of(run):
    return write_report(run.write()).read_text(encoding="utf-8")


def words(page):
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.split("</style>", 1)[1])).split())


def test_the_numbers_of_the_page_are_those_of_the_metrics(run):
    summary = Outline(page_of(run)).tables[0]
    for metrics, row in zip(run.metrics, summary[2:], strict=True):
        gold = metrics["evaluations"]["gold"]
        assert row[0] == metrics["name"]
        assert row[1] == f"{gold['value']:.3f} {gold['low']:.3f}–{gold['high']:.3f}"  # noqa: RUF001
        assert row[6] == f"{gold['kl']:.3f}"
        if metrics["round"]:
            follower = metrics["follower"]
            assert [float(cell) for cell in row[7:]] == pytest.approx(
                [follower["value"], follower["price"], follower["moved_share"]], abs=5e-4
            )


def test_a_response_cannot_add_markup_to_the_page(run):
    run.config["evaluate"] = [{"kind": "reward", "name": "gold", "baseline": "other/model"}]
    clean = Outline(page_of(run)).tags
    attack = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"
    for key in ("prompt", "response", "baseline"):
        run.samples["gold"][0][key] = attack
    run.metrics[3]["name"] = attack
    run.config["model"]["path"] = attack
    run.config["evaluate"][0]["baseline"] = attack
    page = page_of(run)
    outline = Outline(page)
    assert outline.tags == clean
    assert not {"script", "img"} & set(outline.tags)
    assert html.escape(attack, quote=False).split("\"'")[0] in page
    assert "{{ 7 * 7 }}" in page


def test_the_page_fetches_nothing(run):
    page = page_of(run)
    outline = Outline(page)
    assert not {"link", "script", "img", "iframe"} & set(outline.tags)
    links = [value for name, value in outline.attributes if name in ("href", "xlink:href", "src")]
    assert links and all(link.startswith("#") for link in links)
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


def test_no_id_of_a_figure_is_used_twice(run):
    ids = [value for name, value in Outline(page_of(run)).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_same_run_gives_the_same_bytes_whatever_matplotlib_was_told(run):
    first = page_of(run)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": None}):
        assert write_report(run.root).read_text(encoding="utf-8") == first
    command = [
        sys.executable,
        "-c",
        "import sys; from sgpo.report.build import write_report; write_report(sys.argv[1])",
    ]
    subprocess.run([*command, str(run.root)], check=True, env={**os.environ, "PYTHONHASHSEED": "5"})
    assert (run.root / "report.html").read_text(encoding="utf-8") == first
    assert not list(run.root.glob(".*"))


def test_drawing_leaves_the_settings_of_matplotlib_alone(run):
    before = dict(matplotlib.rcParams)
    page_of(run)
    assert dict(matplotlib.rcParams) == before


def test_neither_torch_nor_pyplot_is_imported(run):
    code = (
        "import sys; from sgpo.report.build import write_report; write_report(sys.argv[1]);"
        "print(sorted({'torch', 'transformers', 'datasets', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.write())], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_an_unfinished_run_has_a_page_that_says_so(run, finished):
    del run.metrics[finished:]
    text = words(page_of(run))
    missing = ", ".join(map(str, range(finished, 4)))
    assert f"Not finished. Rounds {missing} are still missing, of 0 to 3." in text
    assert "Run the same recipe again to continue from there" in text


def test_a_finished_run_is_not_called_unfinished(run):
    assert "Not finished" not in words(page_of(run))


def test_a_run_with_no_evaluation_and_no_samples_has_a_page_without_them(run):
    run.samples = {}
    for metrics in run.metrics:
        del metrics["evaluations"], metrics["heldout"]
    text = words(page_of(run))
    assert "was not evaluated" in text
    assert "Sample responses" not in text and "Win rate" not in text
    assert "Gaps and worst case" in text


def test_the_parts_of_a_reward_are_shown_for_the_sft_model_and_every_round(run):
    assert "consists of" not in words(page_of(run))
    for metrics in run.metrics:
        means = {"facts": 0.8 + metrics["round"] / 100, "no_<b>repetition": 1.0}
        metrics["evaluations"]["gold"]["parts"] = {name: [mean, 0.75] for name, mean in means.items()}
    page = page_of(run)
    assert "<b>" not in page
    assert "SFT model 0.750 0.750 DPO on seeds 0.800 1.000 round 1 0.810 1.000 round 2 0.820 1.000" in words(page)
    console = Console(width=80, record=True, file=io.StringIO())
    for name, grid in reward_parts(read_run(run.root)).items():
        console.print(grid_table(name, grid))
    text = " ".join(console.export_text().split())
    assert text.startswith("gold mean facts no <b>repetition")
    assert "round 3 0.830 1.000" in text


def test_a_run_of_null_metrics_has_a_page(run):
    for metrics in run.metrics:
        for block in ("follower", "leader"):
            metrics[block] = dict.fromkeys(metrics.get(block, {}))
        for key in ("value", "low", "high", "kl", "agreement", "tokens"):
            metrics["evaluations"]["gold"][key] = None
        metrics["annotation"] = metrics["heldout"] = None
    assert "was not evaluated" in words(page_of(run))


def test_margin_space_shows_nats_and_the_window(run):
    run.config["follower"].update(space="margin", window=[-2.0, 12.0], tangents=None, radius=0.1)
    for metrics in run.metrics[1:]:
        metrics["follower"].update(space="margin", window=[-2.0, 12.0], radius=0.1, marginal=0.1)
    text = words(page_of(run))
    assert "around the annotated ones, in margin space, with the exact log loss. The radius is 0.1 nats;" in text
    assert "gap (nats)" in text and "sigmoid" not in text


def test_radius_zero_is_called_plain_dpo(run):
    run.config["follower"]["radius"] = 0.0
    assert "The radius is 0, so every round is plain DPO" in words(page_of(run))


def test_a_radius_per_source_is_not_called_plain_dpo(run):
    run.config["follower"] |= {"radius": 0.0, "source_radius": {"human": 0.0, "self": 0.3}}
    answers = {"self": {"radius": 0.3, "window": [0.1, 0.9], "marginal": 0.5, "value": 0.6, "moved_share": 0.4}}
    for metrics in run.metrics[1:]:
        metrics["follower"] = {"value": 0.5, "moved_share": 0.1, "by_source": answers}
    text = words(page_of(run))
    assert "plain DPO" not in text
    assert "The radius is 0 for human pairs and 0.3 for self pairs;" in text
    assert "Each source of pairs has its own radius and line" in text


def test_a_radius_that_the_run_finds_is_said_to_be_found(run):
    for radius, words_of_it in (("measured", "is measured in each round"), ("validated", "is chosen in each round by")):
        run.config["follower"]["radius"] = radius
        assert f"The radius {words_of_it}" in words(page_of(run))


def test_the_story_names_who_ranks_the_answers(run):
    for annotation, ranker in (
        ({}, "ranks the answers by its own implicit reward"),
        ({"annotator": "judge"}, "has a judge rank the answers"),
        ({"annotator": "reward_model"}, "has a reward model rank the answers"),
        ({"annotator": "heads"}, "ranks the answers by linear heads on hidden states, and trains"),
    ):
        run.config["annotation"] = annotation
        assert ranker in tell_story(read_run(run.write()))


def test_the_story_says_how_heads_order_pairs_that_they_do_not_know(run):
    run.config["annotation"] = {"annotator": "heads"}
    run.metrics[0]["heads"] = {"accuracy": 0.712, "low": 0.63, "high": 0.78, "pairs": 120, "left_out": {}}
    said = "by linear heads on hidden states (accuracy 0.712 on human pairs that they were not fitted on), and"
    assert said in tell_story(read_run(run.write()))


def test_the_story_counts_seeds_rounds_and_pairs(run):
    what = tell_story(read_run(run.write()))
    assert "120 human preference pairs" in what
    assert "3 rounds" in what
    assert "1,056 annotated pairs)" in what
    assert "some/sft-model" in what


def test_kept_and_dropped_pairs_add_up_to_the_prompts(run):
    flow = pair_flow(read_run(run.write()))
    assert flow.titles == ["count", "round 1", "round 2", "round 3"]
    names = ["prompts", "responses", "pairs", "prompts with a pair"]
    assert [name for name, _ in flow.rows] == [
        *names,
        *(f"dropped: {why}" for why in ("identical", "unfinished", "tied")),
    ]
    for prompts, _responses, _pairs, kept, *dropped in zip(*(cells for _, cells in flow.rows), strict=True):
        assert int(prompts) == int(kept.split()[0]) + sum(map(int, dropped))
        assert "(88.0%)" in kept


def test_a_prompt_may_give_several_pairs_and_a_reason_without_a_prompt_is_no_row(run):
    for metrics in run.metrics[1:]:
        metrics["annotation"] |= {"pairs": 900, "paired": 371, "dropped": {"identical": 0, "too_long": 29}}
    flow = pair_flow(read_run(run.write()))
    first = {name: cells[0] for name, cells in flow.rows[2:]}
    assert first == {"pairs": "900", "prompts with a pair": "371 (92.8%)", "dropped: too long": "29"}


def test_stage_times_add_up_in_both_directions(run):
    times = stage_times(read_run(run.write()))
    assert times.titles == ["stage", "round 0", "round 1", "round 2", "round 3", "all"]
    rows = dict(times.rows)
    assert list(rows) == ["responses", "pairs", "worst case", "policy", "metrics", "seed: pairs", "all"]
    assert rows["policy"] == [*["75.5 s"] * 4, "5 min 02 s"]
    assert rows["pairs"] == ["–", *["4.8 s"] * 3, "14.2 s"]  # noqa: RUF001
    assert rows["seed: pairs"] == [*"––––", "0.40 s"]  # noqa: RUF001
    assert rows["all"] == ["81.5 s", *["1 min 57 s"] * 3, "7 min 14 s"]


def test_only_rounds_widen_the_tables_of_pairs_and_times(run):
    """Reasons, stages and evaluations are rows: with twenty of them a page would be cut at its right edge."""
    for metrics in run.metrics[1:]:
        metrics["annotation"]["dropped"] = dict.fromkeys(map(str, range(20)), 1)
    run.write()
    path = run.root / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["stages"] |= {f"round-1/evaluations/number-{i}.5": {"seconds": 1.0} for i in range(20)}
    manifest["stages"] |= {f"data/{i}": {"seconds": 1.0} for i in range(20)}
    path.write_text(json.dumps(manifest))
    record = read_run(run.root)
    assert len(pair_flow(record).titles) == 4 and len(stage_times(record).titles) == 6
    assert "evaluations: number-7.5" in dict(stage_times(record).rows)
    tables = len(Outline(page := write_report(run.root).read_text(encoding="utf-8")).tables)
    assert page.count('<div class="wide">\n<table>') == tables, "a table that cannot be scrolled"


def test_a_failed_report_leaves_the_one_before(run):
    before = page_of(run)
    (run.root / "round-1" / "metrics.json").write_text("{")
    with pytest.raises(InputError, match=r"round-1/metrics\.json line 1"):
        write_report(run.root)
    assert (run.root / "report.html").read_text(encoding="utf-8") == before


def test_command_and_recipe_are_on_the_page(run):
    page = page_of(run)
    assert "sgpo run --config recipes/fake.yaml rounds=3" in page
    assert "learning_rate: 5.0e-07" in page
    assert "torch 2.13.0" in page
    assert json.loads((run.root / "manifest.json").read_text())["created"] in page
