"""Instructions that a program can check, IFEval's and IFBench's: read, and checked by the package `if-verifiable`."""

import functools
import inspect
import random
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from sgpo.errors import InputError, first_line, shorten
from sgpo.evaluate.row_files import Row, rows_by_key
from sgpo.policy.tokens import Messages
from sgpo.preferences.columns import read_columns
from sgpo.preferences.source import load_rows
from sgpo.stats.intervals import mean_interval, share_interval
from sgpo.store.files import name_rows

_COLUMNS = ("key", "prompt", "instruction_id_list", "kwargs")


class Request(NamedTuple):
    """A prompt, and the N instructions in it with their arguments."""

    key: int | str
    prompt: str
    instructions: list[str]
    kwargs: list[dict[str, Any]]


class Followed(NamedTuple):
    """Which of the N instructions of a request a response follows, (N,) each, and why a checker failed, by its id.

    `strict`: the response itself does. `loose`: it or one of seven variants of it does, without its first or last line
    or both, or without asterisks. A response that is empty or on which a checker fails does not."""

    strict: list[bool]
    loose: list[bool]
    errors: dict[str, str]

    @property
    def share(self) -> float:
        """The share of the instructions that are followed strictly."""
        return sum(self.strict) / len(self.strict)


def read_requests(path: str | Path, *, split: str | None = None) -> list[Request]:
    """Reads prompts in IFEval's layout: `key`, `prompt`, `instruction_id_list`, `kwargs` (an object an instruction).

    Args:
        path: whatever `sgpo.preferences.source.load_rows` reads, such as IFEval's input_data.jsonl or `google/IFEval`.
            Arguments that are null, as the Hub fills them in, are none.
        split: split of the source, if it has splits.

    Raises:
        InputError: see `load_rows`; `if-verifiable` is not installed; naming the row: a key or prompt that is missing
            or repeated, an instruction that is unknown, or whose arguments are not those that its checker takes.
    """
    rows = load_rows(path, split=split)
    if absent := [name for name in _COLUMNS if name not in rows.column_names]:
        raise InputError(f"{path} has no column {absent[0]!r}; allowed: IFEval's, {', '.join(_COLUMNS)}.")
    placed = list(map(Row, name_rows(path, len(rows)), read_columns(rows, _COLUMNS, str(path))))
    requests = list(map(_read_request, placed))
    for column in ("key", "prompt"):
        rows_by_key(placed, lambda row, column=column: row.values[column], column)
    return requests


def score_responses(requests: Sequence[Request], responses: Sequence[str | None]) -> list[Followed]:
    """Checks P responses, one to each of P requests; None is an empty one."""
    found = []
    for request, response in zip(requests, responses, strict=True):
        checks, errors = [], {}
        for name, kwargs in zip(request.instructions, request.kwargs, strict=True):
            try:
                checks.append(_check(name, kwargs, request.prompt, response or "")[0])
            except Exception as error:
                # Checkers are made for usual texts: JSON that is nested too deeply ends one with RecursionError.
                checks.append((False, False))
                errors[name] = f"{type(error).__name__}: {first_line(error)}"
        found.append(Followed(*map(list, zip(*checks, strict=True)), errors))
    return found


def report_following(
    requests: Sequence[Request], responses: Sequence[str | None], baseline: Sequence[str | None] | None = None
) -> dict[str, Any]:
    """The rates at which P responses follow instructions, strict and loose: by level, family and type of instruction.

    The instructions of a prompt are not independent: all intervals are over prompts. `gain` has the strict rates less
    those of the baseline's responses, prompt by prompt; `parts` has both."""
    sides = [score_responses(requests, texts) for texts in (responses, baseline) if texts is not None]
    found, *other = map(_by_level, sides)
    names = np.array([name for request in requests for name in request.instructions])
    families, prompts = np.array([name.partition(":")[0] for name in names]), np.arange(len(requests))
    owners = {"prompts": prompts, "instructions": np.repeat(prompts, [len(one.instructions) for one in requests])}

    def rates(at: Any, level: str = "instructions") -> dict[str, Any]:
        both, clusters = zip(("strict", "loose"), found[level][:, at], strict=True), owners[level][at]
        rated = {how: (len(row), row.mean(), *share_interval(row, clusters)) for how, row in both}
        return {how: dict(zip(("count", "rate", "low", "high"), one, strict=True)) for how, one in rated.items()}

    pairs = list(zip(requests, sides[0], strict=True))
    return {
        "by_level": {level: rates(slice(None), level) for level in owners},
        "by_family": {family: rates(families == family) for family in np.unique(families)},
        "by_type": {name: rates(names == name) for name in np.unique(names)},
        "gain": {at: mean_interval(found[at][0] - one[at][0], owners[at]) for one in other for at in owners},
        "parts": {at: (found[at][0].mean(), one[at][0].mean()) for one in other for at in owners},
        "checker_errors": {request.key: one.errors for request, one in pairs if one.errors},
        "requests": [{"key": one.key, "instruction_id_list": one.instructions, **got._asdict()} for one, got in pairs],
    }


def checker(path: str | Path, *, split: str | None = None) -> Callable[..., list[list[float]]]:
    """A reward function for `annotation.function`: the share of a prompt's instructions that a response follows.

    `follows = checker("prompts.jsonl")` in a file of your own is its function `follows`. A conversation is found in the
    file by the text of its last turn; one that the file lacks raises InputError.
    """
    found = {request.prompt: request for request in read_requests(path, split=split)}

    def reward(prompts: Sequence[Messages], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        asked = [messages[-1]["content"] for messages in prompts]
        if absent := [text for text in asked if text not in found]:
            raise InputError(f"{path} lacks the prompt {shorten(absent[0])}; allowed: its {len(found)} prompts.")
        rows = zip(asked, responses, strict=True)
        return [[one.share for one in score_responses([found[text]] * len(texts), texts)] for text, texts in rows]

    return reward


def _read_request(row: Row) -> Request:
    key, names, kwargs = (row.values[name] for name in ("key", "instruction_id_list", "kwargs"))
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise row.wrong("key", "a number or a name")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise row.wrong("instruction_id_list", "a list of ids, at least one")
    objects = isinstance(kwargs, list) and all(one is None or isinstance(one, dict) for one in kwargs)
    if not objects or len(kwargs) != len(names):
        raise row.wrong("kwargs", f"a list of objects, one for each instruction, {len(names)}")
    kwargs = [{name: value for name, value in (one or {}).items() if value is not None} for one in kwargs]
    for fault in filter(None, map(_fault, names, kwargs)):
        raise InputError(f"{row.where}: {fault}")
    return Request(key, row.text("prompt"), names, kwargs)


def _fault(name: str, kwargs: Mapping[str, Any]) -> str | None:
    """What is wrong with an instruction: a checker would draw missing arguments, and fail on others each time."""
    if name not in _checkers():
        near = get_close_matches(name, _checkers()) or ["IFEval's and IFBench's"]
        return f"the instruction {shorten(name)} is unknown; allowed: {', '.join(near)}."
    _, *taken = inspect.signature(_checkers()[name].build_description).parameters
    if taken != ["kwargs"] and set(taken) != set(kwargs):
        return f"the kwargs of {name} are {', '.join(kwargs) or 'none'}; allowed: {', '.join(taken) or 'none'}."
    wrong = f"the kwargs of {name} are {shorten(kwargs, 200)}"
    # A text in place of a list would be read letter by letter.
    if any(isinstance(kwargs.get(one), str) for one in ("keywords", "forbidden_words")):
        return f"{wrong}; allowed: a list of texts."
    try:
        _, drawn = _check(name, kwargs, "", "Yes.")
    except Exception as error:
        if data := re.search(r"nltk\.download\('(\w+)'\)", str(error)):
            return f"{name} needs data of NLTK that is not installed: python -m nltk.downloader {data[1]}."
        return f"{wrong}, and its checker fails: {first_line(error)}."
    # One of IFEval's own letters is a #, for which its own script draws another too.
    if drawn and not re.fullmatch("[^a-zA-Z]", kwargs.get("letter", "")):
        return f"{wrong}, of which the checker would replace one by a random value; allowed: what it takes."
    return None


def _check(name: str, kwargs: Mapping[str, Any], prompt: str, response: str) -> tuple[tuple[bool, bool], bool]:
    """Whether a response follows an instruction, strictly and loosely, and whether the checker drew an argument."""
    from if_verifiable.common import evaluate_instructions

    state = random.getstate()
    random.seed(0)
    try:
        start = random.getstate()
        # One at a time: a checker that fails must not take the others with it. Some log what they cannot tell.
        with patch("logging.error", lambda *_: None):
            results, _ = evaluate_instructions(response, [name], [kwargs], prompt, _checkers())
        found = (results[0].strict_pass, results[0].loose_pass) if results else (False, False)
        return found, random.getstate() != start
    finally:
        random.setstate(state)


def _by_level(followed: Sequence[Followed]) -> dict[str, np.ndarray]:
    """Strict and loose, of P prompts as a whole (2, P) and of their N instructions (2, N)."""
    checks = [np.array([one.strict, one.loose], float) for one in followed]
    return {"prompts": np.stack([one.min(axis=1) for one in checks], axis=1), "instructions": np.hstack(checks)}


@functools.cache
def _checkers() -> dict[str, type]:
    """The checkers of both benchmarks by id, with NLTK's model of English sentences in memory: nothing is fetched."""
    try:
        import langdetect
        import nltk
        import punkt
        from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

        # IFBench's checkers download data when they are imported.
        with patch.object(nltk, "download"):
            from if_verifiable.ifbench import instructions_registry as ifbench
            from if_verifiable.ifeval import instructions_registry as ifeval
    except ImportError as error:
        raise InputError("checks need if-verifiable, which is not installed: pip install 'sgpo[ifeval]'.") from error
    langdetect.DetectorFactory.seed = 0  # It guesses languages at random otherwise.
    found, parameters = punkt.load_model("english"), PunktParameters()
    for name in ("abbrev_types", "collocations", "sent_starters", "ortho_context"):
        getattr(parameters, name).update(getattr(found, name))
    tokenizer = PunktSentenceTokenizer(parameters)
    # Both places load the model once and keep it. Folders of data would have to be private, and so would all above.
    with patch("nltk.tokenize.PunktTokenizer", return_value=tokenizer), patch("nltk.data.load", return_value=tokenizer):
        nltk.word_tokenize("Yes.")
        ifeval.instructions.instructions_util.count_sentences("Yes.")
    return {**ifeval.INSTRUCTION_DICT, **ifbench.INSTRUCTION_DICT}
