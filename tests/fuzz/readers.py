"""Every reader of files: a valid file of its kind, its mutations, the call that reads it, and what callers do."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import Dataset, Features, List, Value

from evaluate.alpaca_files import annotation_rows, write_gamed
from evaluate.ifeval_kwargs import INSTRUCTIONS, row
from fuzz import mutations
from report.fake_run import FakeRun
from sgpo.cli.worst_case import read_gaps
from sgpo.config import RunConfig, named_sources, read_recipe, validate
from sgpo.config.options import JudgeOptions
from sgpo.evaluate.alpaca import Instructions, read_annotations, read_instructions, write_model_outputs
from sgpo.evaluate.gamed import read_gamed
from sgpo.evaluate.ifeval import Request, read_requests, report_following
from sgpo.evaluate.length_control import report_win_rates
from sgpo.evaluate.mt_bench import Question, next_conversation, read_questions, write_answers
from sgpo.evaluate.mt_judgments import average_judgments, read_judgments
from sgpo.evaluate.prompt_files import Answers, read_answers_to, read_prompts, write_answers_to
from sgpo.evaluate.results import as_plain, result_table
from sgpo.policy.load import load_tokenizer
from sgpo.policy.locate import adapter_base, check_exists
from sgpo.policy.sampling import Sampling
from sgpo.policy.served import ServedGenerator
from sgpo.policy.tokens import tokenize_responses
from sgpo.preferences.annotators.verdicts import PairwiseJudge
from sgpo.preferences.layout import clean_pairs
from sgpo.preferences.source import load_pairs, load_prompts, load_rows
from sgpo.preferences.split_files import check_split, hash_rows
from sgpo.report.build import write_report
from sgpo.report.read import read_run
from sgpo.report.story import tell_made
from sgpo.report.table import rich_table
from sgpo.report.verdict import judge_shipping
from sgpo.robust import make_link, worst_case
from sgpo.serving.answers import Answer
from sgpo.serving.cache import CachedPool
from sgpo.serving.client import reviewed
from sgpo.store.hub import is_hub_id
from sgpo.store.records import Manifest, RoundMetrics, Shipped
from sgpo.store.run_dir import check_same_config
from sgpo.store.stages import Shards
from tiny_model import build_tiny_tokenizer

TESTS = Path(__file__).parents[1]
TEXTS = (
    "Where is the lantern?",
    "Name a fruit.",
    "Zähle bis drei 🌉\u2028",
    'Quote "this"\\',
    "Why?\r\nSay why.",
    "Go.",
)
PROMPTS = [[{"role": "user", "content": text}] for text in TEXTS[:5]]
PROMPTS.append([*PROMPTS[0], {"role": "assistant", "content": "There."}, {"role": "user", "content": TEXTS[5]}])
QUESTIONS = [
    Question(81, "writing", ("Write a toast.", "Now in one sentence."), None),
    Question(82, "math", ("What is 17 times 3?", "And plus 9? \n"), ("51", "60")),
    Question(83, "stem", ("Why is the sky blue?", "Und auf Deutsch? 🌤"), None),
]
BODIES = [{"model": "judge", "messages": [{"role": "user", "content": text}]} for text in TEXTS[:3]]


class Reader(NamedTuple):
    """A reader of files.

    Attributes:
        name: in failures, and on the command line.
        write: writes what is valid into an empty folder, and returns the file that is mutated.
        mutate: see `mutations`.
        read: called with that file; must return a value, or raise an InputError that names the file.
        use: called with the value and an empty folder; may refuse it too, but with an InputError.
        share: of the mutated files, as a weight; less for readers that take longer.
        named: what messages must name, if it is not the file.
    """

    name: str
    write: Callable[[Path], Path]
    mutate: mutations.Mutate
    read: Callable[[Path], Any]
    use: Callable[[Any, Path], Any]
    share: float = 1.0
    named: str | None = None


def _jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def _text(name: str, text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return write


def _plain(value: Any) -> None:
    """What a command does with a result: strict JSON, in UTF-8."""
    json.dumps(as_plain(value), allow_nan=False, ensure_ascii=False).encode()


def _print(renderable: Any, folder: Path) -> None:
    from rich.console import Console

    with (folder / "terminal").open("w", encoding="utf-8", errors="backslashreplace") as file:
        Console(file=file, width=100).print(renderable, highlight=False, markup=False)


# Answers, prompts, AlpacaEval and MT-Bench


ANSWER_ROWS = [
    {"prompt": prompt if place else prompt[0]["content"], "response": f"Answer {place}.", "generator": "mine",
     "n_tokens": 3 + place, "finish_reason": "stop"}
    for place, prompt in enumerate(PROMPTS)
]  # fmt: skip
OUTPUT_ROWS = [{"instruction": text, "output": f"{text}!", "generator": "mine", "dataset": "own"} for text in TEXTS]
ANNOTATION_ROWS = [
    {**row, "instruction": text, "output_2": f"{text}!" * (2 + place), "preference": [1.2, 2, 1, None, 0, 1.75][place]}
    for place, (row, text) in enumerate(zip(annotation_rows("even_long_soft", 6), TEXTS, strict=True))
]
ASKED = Instructions(list(TEXTS), ["own"] * len(TEXTS))
REQUEST_ROWS = [row(f"{name}", *list(INSTRUCTIONS)[name : name + 2]) for name in range(0, 8, 2)]
JUDGMENT_ROWS = [
    {"question_id": question.question_id, "model": "policy", "judge": ["gpt-4", "single-v1"], "turn": turn,
     "score": 7.5 - turn, "user_prompt": "", "judgment": "", "tstamp": 1.0}
    for question in QUESTIONS for turn in (1, 2)
]  # fmt: skip


def _use_answers(answers: Answers, folder: Path) -> None:
    assert len(answers.texts) == len(PROMPTS)
    assert all(isinstance(text, str) or answers.finish_reasons[row] for row, text in enumerate(answers.texts))
    written = write_answers_to(folder / "answers.json", PROMPTS, answers)
    assert read_answers_to(written, PROMPTS) == answers
    _plain([answers, answers.cut, answers.tokens])


def _use_prompts(prompts: list, folder: Path) -> None:
    assert prompts and all(
        message["role"] and message["content"].encode() is not None for one in prompts for message in one
    )
    _plain(prompts)


def _use_annotations(annotations: Any, folder: Path) -> None:
    result = as_plain(report_win_rates(annotations, None))
    _plain(result)
    _print(result_table({"kind": "alpaca", **result}), folder)


def _use_gamed(gamed: Any, folder: Path) -> None:
    assert np.isfinite(gamed.difficulty).all() and len(gamed.features) == len(gamed.preferences)
    assert not np.isnan(gamed.preferences).any()


def _use_questions(questions: list[Question], folder: Path) -> None:
    for question in questions:
        _plain(next_conversation(question, ["answer"] * (len(question.turns) - 1)))
    write_answers(
        folder / "mine.jsonl", questions, [["answer"] * len(one.turns) for one in questions], "mine", created=1
    )


def _use_judgments(judgments: Any, folder: Path) -> None:
    averages = average_judgments(judgments)
    result = as_plain({"kind": "mt_bench", "model": judgments.model, "judge": judgments.judge, **averages._asdict()})
    _plain(result)
    _print(result_table(result), folder)


def _use_instructions(asked: Instructions, folder: Path) -> None:
    write_model_outputs(folder / "out.json", asked, ["x"] * len(asked.instructions), "mine")
    _plain(asked)


def _use_requests(requests: list[Request], folder: Path) -> None:
    result = as_plain(report_following(requests, [TEXTS[0]] * len(requests), [None] * len(requests)))
    _plain(result)
    _print(result_table({"kind": "ifeval", "policy": "mine", "failed": {}, **result}), folder)


class _Pool:
    """Answers what a cache lacks."""

    def map(self, bodies: list, *, on_answer: Callable[[int, Answer], None], **_: object) -> None:
        for place in range(len(bodies)):
            on_answer(place, Answer(("Verdict: B",), ("stop",), 3, 4, {"A": -0.5}))


def _write_cache(folder: Path) -> Path:
    CachedPool(_Pool(), folder / "verdicts.jsonl").map(BODIES)
    return folder / "verdicts.jsonl"


def _read_cache(path: Path) -> bytes:
    CachedPool(_Pool(), path).missing(BODIES)
    return path.read_bytes() if path.is_file() else b""


def _use_cache(content: bytes, folder: Path) -> None:
    (folder / "copy.jsonl").write_bytes(content)
    answers = CachedPool(_Pool(), folder / "copy.jsonl").map(BODIES)
    for logprobs in (False, True):
        judge, counts = PairwiseJudge("judge", JudgeOptions(), logprobs=logprobs), Counter()
        _plain(
            [judge.settle([answer, answer], counts) for answer in map(partial(reviewed, review=judge.review), answers)]
        )
    # Every answer is used, whoever asks for it.
    assert CachedPool(_Pool(), folder / "copy.jsonl").missing(BODIES) == []


# Preference data


PAIR_ROWS = [
    {
        "prompt": f"{text} {place}",
        "chosen": f"yes {place}",
        "rejected": f"nö {place} 🌉",
        "score": place + 0.5,
        "n": place,
    }
    for place, text in enumerate(TEXTS)
]
TALKS = [
    {
        "chosen": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}],
        "rejected": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["rejected"]}],
        "source": "a",
    }
    for row in PAIR_ROWS
]


def _write_table(name: str, rows: list[dict[str, Any]]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        table = Dataset.from_list(rows).data.table
        if name.endswith(".parquet"):
            pq.write_table(table, folder / name)
        else:
            new = pa.ipc.new_file if "file" in name else pa.ipc.new_stream
            with pa.OSFile(str(folder / name), "wb") as sink, new(sink, table.schema) as writer:
                writer.write_table(table)
        return folder / name

    return write


def _write_gzip(folder: Path) -> Path:
    (folder / "pairs.jsonl.gz").write_bytes(gzip.compress(_jsonl(PAIR_ROWS).encode()))
    return folder / "pairs.jsonl.gz"


def _write_saved(part: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        Dataset.from_list(TALKS).save_to_disk(folder / "saved")
        return next((folder / "saved").glob(part))

    return write


def _use_pairs(pairs: Dataset, folder: Path) -> None:
    assert {"prompt", "chosen", "rejected"} <= set(pairs.column_names)
    hash_rows(pairs)
    pairs.save_to_disk(folder / "pairs")
    cleaned, _ = clean_pairs(pairs, "pairs", max_prompt_chars=10**6)
    assert len(cleaned) == len(pairs)


def _use_prompt_rows(rows: Dataset, folder: Path) -> None:
    _use_prompts(rows["prompt"][:], folder)
    hash_rows(rows)


def _write_split(folder: Path) -> Path:
    pq.write_table(Dataset.from_list(PAIR_ROWS).data.table, folder / "seeds.parquet")
    files = {"seeds.parquet": {"rows": 6, "sha256": hash_rows(load_rows(folder / "seeds.parquet"))}}
    return _text("split.json", json.dumps({"sgpo": "0.2.0", "seed": 0, "files": files}, indent=2))(folder)


# Gaps


GAPS = [0.25, -1.5, 3.0, 0.0, 1e-3, 12.5]


def _write_npy(folder: Path) -> Path:
    np.save(folder / "gaps.npy", np.array(GAPS))
    return folder / "gaps.npy"


def _write_gaps_parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"gap": GAPS, "source": ["a"] * len(GAPS)}), folder / "gaps.parquet")
    return folder / "gaps.parquet"


def _use_gaps(gaps: np.ndarray, folder: Path) -> None:
    found = worst_case(gaps, 0.01, link=make_link("probability", 6))
    assert np.isfinite(found.value) and gaps.ndim == 1


# Recipes, templates, models' JSON


OLD = (TESTS / "config" / "config_of_0_1.yaml").read_text(encoding="utf-8")
SPLIT_RECIPE = """
output: runs/x
rounds: 2
model: {path: some/model, dtype: bfloat16}
data:
  split:
    sources: [{path: a/b, weight: 3}, {path: mine.jsonl, weight: 1, split: train}]
    seeds: 100
    pools: [200, 300]
    heldout: 50
annotation: {annotator: judge, model: judge-model, servers: ["http://localhost:8000/v1"]}
follower: {radius: 0.01, space: probability, window: [0.0, 1.0], source_radius: null}
leader: {learning_rate: 5.0e-7, beta: 0.1, trainer: {step: pair}}
evaluate:
- {kind: preferences, pairs: heldout.jsonl}
- {kind: judge, prompts: p.jsonl, model: m, servers: ["http://localhost:8001/v1"], options: {max_tokens: 64}}
"""


def _read_config(path: Path) -> dict[str, Any]:
    content = read_recipe(path, [])
    list(map(is_hub_id, named_sources(content)))
    return validate(RunConfig, content, str(path))


def _use_config(config: RunConfig, folder: Path) -> None:
    # As a run stores it, and finds it again.
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    check_same_config(folder, config)


def _read_stored(path: Path) -> None:
    check_same_config(path.parent, validate(RunConfig, yaml.safe_load(OLD), "old"))


TEMPLATE = "Compare for {prompt}:\nA: {first}\nB: {second}\nEnd with 'Verdict: A', 'Verdict: B' or 'Verdict: tie'.\n"


def _read_judge(path: Path) -> PairwiseJudge:
    return PairwiseJudge("judge", JudgeOptions(), template=path)


def _use_judge(asked: PairwiseJudge, folder: Path) -> None:
    _plain(asked.requests(PROMPTS[5], "first {second}", "second"))


def _use_base(base: str | None, folder: Path) -> None:
    if base is not None and not is_hub_id(base):
        check_exists(base, "base model")


GENERATION = '{"eos_token_id": [2, 5], "temperature": 0.7, "top_k": 20, "pad_token_id": 0}'


def _write_tokenizer(file: str, text: str | None = None) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "model").mkdir()
        build_tiny_tokenizer().save_pretrained(folder / "model")
        if text is not None:
            (folder / "model" / file).write_text(text, encoding="utf-8")
        return folder / "model" / file

    return write


def _use_tokenizer(tokenizer: Any, folder: Path) -> None:
    for prompts in (PROMPTS, PROMPTS[5:]):
        tokenize_responses(tokenizer, prompts, ["Answer."] * len(prompts))


class _Served(_Pool):
    """Answers requests, which must be JSON."""

    def map(self, bodies: list, *, on_answer: Callable[[int, Answer], None], **_: object) -> None:
        _plain(bodies)
        super().map(bodies, on_answer=lambda place, _: on_answer(place, Answer(("Yes.",), ("stop",))))


def _read_generator(path: Path) -> ServedGenerator:
    return ServedGenerator(_Served(), str(path.parent), build_tiny_tokenizer(), dialect="transformers")


def _use_generator(generator: ServedGenerator, folder: Path) -> None:
    generator.generate(PROMPTS[:2], [1, 2], Sampling(n=1, max_new_tokens=4))


# A run


def _write_run(file: str, gold: bool = False) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        run = FakeRun(folder / "run")
        evidence = [
            {"round": t, "score": 0.1 * t, "p_value": 0.2, "threshold": 0.05, "accuracy": 0.6} for t in range(4)
        ]
        run.shipped = {"round": 2, "path": "round-2/policy", "pairs": 60, "enough": 50, "rounds": evidence}
        run.config["annotation"] = {"annotator": "heads"}
        run.metrics[0]["heads"] = {"accuracy": 0.7, "low": 0.6, "high": 0.8, "pairs": 120, "left_out": {"too_long": 0}}
        run.metrics[2]["decision"] = {
            **{"place": 0, "radius": 0.1, "accepted": True, "pairs": 60},
            "tried": [{"radius": 0.1, "accepted": True, "reason": "better", "change": 0.1, "standard_error": 0.2}],
        }
        return run.write() / file

    return write


def _read_run(path: Path) -> Path:
    root = next(parent for parent in path.parents if parent.name == "run")
    read_run(root)
    return root


def _use_run(root: Path, folder: Path) -> None:
    # A figure takes half a second, so few pages have any.
    drawn = zlib.crc32(b"".join(file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file())) % 40 == 0
    with nullcontext() if drawn else mock.patch("sgpo.report.build.draw_figures", lambda record: []):
        write_report(root).unlink()
    record = read_run(root)
    _print(rich_table(record), folder)
    if record.shipped:
        _print(" ".join([*judge_shipping(record), tell_made(record)]), folder)


ABOUT = {"model": "abc", "max_length": 128}
FEATURES = Features({"text": Value("string"), "logps": List(Value("float64"))})


def _write_shards(folder: Path) -> Path:
    shards = Shards(folder / "shards", FEATURES)
    for index in range(2):
        columns = {"text": ["a", "ö", ""], "logps": [[0.5], [], [-1.0, 2.0]]}
        shards.write(index, columns, notes={"scored": 3}, about=ABOUT)
    return folder / "shards" / "00001.arrow"


def _use_shards(read: tuple[Dataset, dict, dict], folder: Path) -> None:
    dataset, counts, about = read
    dataset.save_to_disk(folder / "stage")
    _plain([dataset.to_dict(), about, sum(counts.values())])


def _write_answer(folder: Path) -> Path:
    """The follower's answer to a round, as rounds/training.py writes it."""
    gaps, about = np.linspace(-1.0, 2.0, 7), {"space": "probability", "tangents": 6, "radius": 0.01, "pairs": 7}
    found = worst_case(gaps, 0.01, link=make_link("probability", 6))
    numbers = {name: float(getattr(found, name)) for name in ("value", "empirical_value", "price", "moved_share")}
    summary = {**about, **numbers, "marginal": float(found.marginal), "window": list(found.window)}
    table = pa.table({"gap": gaps, "point": 1 / (1 + np.exp(-gaps)), "moved": np.asarray(found.moved)})
    pq.write_table(table.replace_schema_metadata({"sgpo": json.dumps(summary)}), folder / "worst_case.parquet")
    return folder / "worst_case.parquet"


def _read_answer(path: Path) -> dict[str, Any]:
    # It imports the trainer, which takes seconds.
    from sgpo.rounds.training import read_worst_cases

    return read_worst_cases(path, ["self"] * 7)


def _use_record(record: Any, folder: Path) -> None:
    record.write(folder / "record.json")
    type(record).read(folder / "record.json")


RUN_FILES = {
    "config.yaml": mutations.yaml_file,
    "manifest.json": mutations.json_file,
    "shipped.json": mutations.json_file,
    "round-0/metrics.json": mutations.json_file,
    "round-1/metrics.json": mutations.json_file,
    "round-2/metrics.json": mutations.json_file,
    "round-1/worst_case.parquet": mutations.parquet_file,
    "round-3/evaluations/gold/samples.jsonl": mutations.json_lines,
    "seed/pairs/data-00000-of-00001.arrow": mutations.arrow_stream,
}
RECORDS = {
    "manifest.json": Manifest, "shipped.json": Shipped, "round-2/metrics.json": RoundMetrics,
}  # fmt: skip


READERS = [
    Reader("answers.json", _text("answers.json", json.dumps(ANSWER_ROWS)), mutations.json_file,
           lambda path: read_answers_to(path, PROMPTS), _use_answers, 3),
    Reader("answers.jsonl", _text("answers.jsonl", _jsonl(ANSWER_ROWS)), mutations.json_lines,
           lambda path: read_answers_to(path, PROMPTS), _use_answers, 3),
    Reader("prompts.jsonl", _text("prompts.jsonl", _jsonl([{"prompt": one} for one in PROMPTS])), mutations.json_lines,
           read_prompts, _use_prompts),
    Reader("instructions.json", _text("instructions.json", json.dumps(OUTPUT_ROWS)), mutations.json_file,
           read_instructions, _use_instructions),
    Reader("annotations.json", _text("annotations.json", json.dumps(ANNOTATION_ROWS)), mutations.json_file,
           lambda path: read_annotations(path, asked=ASKED), _use_annotations, 2),
    Reader("df_gamed.csv", lambda folder: write_gamed(folder / "df_gamed.csv", count=5), mutations.text_file,
           read_gamed, _use_gamed, 2),
    Reader("question.jsonl", _text("question.jsonl", _jsonl(
               [{"question_id": q.question_id, "category": q.category, "turns": q.turns, "reference": q.reference}
                for q in QUESTIONS])), mutations.json_lines, read_questions, _use_questions, 2),
    Reader("requests.jsonl", _text("requests.jsonl", _jsonl(REQUEST_ROWS)), mutations.json_lines, read_requests,
           _use_requests),
    Reader("judgments.jsonl", _text("judgments.jsonl", _jsonl(JUDGMENT_ROWS)), mutations.json_lines,
           lambda path: read_judgments(path, QUESTIONS), _use_judgments, 2),
    Reader("verdicts.jsonl", _write_cache, mutations.json_lines, _read_cache, _use_cache, 2),
    Reader("pairs.jsonl", _text("pairs.jsonl", _jsonl(PAIR_ROWS)), mutations.json_lines, load_pairs, _use_pairs),
    Reader("talks.json", _text("talks.json", json.dumps(TALKS)), mutations.json_file, load_pairs, _use_pairs),
    Reader("pairs.jsonl.gz", _write_gzip, mutations.gzipped_lines, load_pairs, _use_pairs),
    Reader("pairs.parquet", _write_table("pairs.parquet", PAIR_ROWS), mutations.parquet_file, load_pairs, _use_pairs,
           2),
    Reader("talks.parquet", _write_table("talks.parquet", TALKS), mutations.parquet_file, load_pairs, _use_pairs, 2),
    Reader("file.arrow", _write_table("file.arrow", PAIR_ROWS), mutations.arrow_file, load_pairs, _use_pairs),
    Reader("talks.arrow", _write_table("talks.arrow", TALKS), mutations.arrow_stream, load_pairs, _use_pairs, 2),
    Reader("prompts.parquet", _write_table("prompts.parquet", PAIR_ROWS), mutations.parquet_file, load_prompts,
           _use_prompt_rows),
    *(Reader(f"saved {part}", _write_saved(part), mutate, lambda path: load_pairs(path.parent), _use_pairs, 0.5,
           "saved")
      for part, mutate in (("*.arrow", mutations.arrow_stream), ("state.json", mutations.json_file),
                           ("dataset_info.json", mutations.json_file))),
    Reader("split.json", _write_split, mutations.json_file, lambda path: check_split(path.parent), lambda *_: None, 0.5,
           "home"),
    Reader("gaps.txt", _text("gaps.csv", "\n".join(map(str, GAPS))), mutations.text_file,
           lambda path: read_gaps(path, "gap"), _use_gaps),
    Reader("gaps.npy", _write_npy, mutations.npy_file, lambda path: read_gaps(path, "gap"), _use_gaps, 2),
    Reader("gaps.parquet", _write_gaps_parquet, mutations.parquet_file, lambda path: read_gaps(path, "gap"),
           _use_gaps, 2),
    Reader("recipe.yaml", _text("recipe.yaml", SPLIT_RECIPE), mutations.yaml_file, _read_config, _use_config, 2),
    Reader("old recipe.yaml", _text("recipe.yaml", OLD), mutations.yaml_file, _read_config, _use_config),
    Reader("stored config.yaml", _text("config.yaml", OLD), mutations.yaml_file, _read_stored, lambda *_: None, 1,
           "home"),
    Reader("judge template", _text("judge.txt", TEMPLATE), mutations.jinja_file, _read_judge, _use_judge),
    Reader("adapter_config.json", _text("adapter_config.json", '{"base_model_name_or_path": "some/base", "r": 8}'),
           mutations.json_file, lambda path: adapter_base(path.parent), _use_base),
    Reader("chat_template.jinja", _write_tokenizer("chat_template.jinja"), mutations.jinja_file,
           lambda path: load_tokenizer(path.parent), _use_tokenizer, 0.5, "model"),
    Reader("tokenizer_config.json", _write_tokenizer("tokenizer_config.json"), mutations.json_file,
           lambda path: load_tokenizer(path.parent), _use_tokenizer, 0.3, "model"),
    Reader("generation_config.json", _write_tokenizer("generation_config.json", GENERATION), mutations.json_file,
           _read_generator, _use_generator),
    Reader("shards", _write_shards, mutations.arrow_stream, lambda path: Shards(path.parent, FEATURES).read(2),
           _use_shards),
    Reader("worst_case.parquet", _write_answer, mutations.parquet_file, _read_answer, lambda *_: None, 0.5),
    *(Reader(f"run {file}", _write_run(file), mutate, _read_run, _use_run, 0.5) for file, mutate in RUN_FILES.items()),
    *(Reader(f"record {file}", _write_run(file), mutations.json_file, kind.read, _use_record)
      for file, kind in RECORDS.items()),
]  # fmt: skip
