"""Instructions that a program can check, IFEval's and IFBench's: read, and checked by the package `if-verifiable`."""

import functools
import inspect
import logging
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from sgpo.errors import InputError, first_line, shorten
from sgpo.evaluate.row_files import Row, rows_by_key
from sgpo.policy.tokens import Messages
from sgpo.preferences.columns import read_columns
from sgpo.preferences.source import load_rows
from sgpo.store.files import name_rows

NEEDS_EXTRA = "instructions are checked by if-verifiable, which is not installed: pip install 'sgpo[ifeval]'."
_COLUMNS = ("key", "prompt", "instruction_id_list", "kwargs")
_LISTS = ("keywords", "forbidden_words")  # A text in their place would be read letter by letter.


class Request(NamedTuple):
    """A prompt, and the N instructions in it with their arguments."""

    key: int | str
    prompt: str
    instructions: list[str]
    kwargs: list[dict[str, Any]]

    @property
    def drawn(self) -> list[str]:
        """Instructions about a sign that is none of a to z: IFEval's checker, as in its own script, draws a letter."""
        named = zip(self.instructions, self.kwargs, strict=True)
        return [name for name, kwargs in named if _is_no_letter(name, **kwargs)]


class Followed(NamedTuple):
    """Which of the N instructions of a request a response follows, (N,) each, and why a checker failed, by its id.

    `strict`: the response itself does. `loose`: it or one of seven variants of it does, without its first or last line
    or both, or without asterisks. A response that is empty or on which a checker fails does not.
    """

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
    with _quiet_and_repeatable():
        pairs = zip(requests, responses, strict=True)
        return [_score(request, response or "") for request, response in pairs]


def checker(path: str | Path, *, split: str | None = None) -> Callable[..., list[list[float]]]:
    """A reward function for `annotation.function`: the share of a prompt's instructions that a response follows.

    `follows = checker("prompts.jsonl")` in a file of your own is its function `follows`. A conversation is found in the
    file by the text of its last turn; one that the file lacks raises InputError.
    """
    found = {request.prompt: request for request in read_requests(path, split=split)}

    def reward(prompts: Sequence[Messages], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        rewards = []
        for messages, texts in zip(prompts, responses, strict=True):
            if (request := found.get(messages[-1]["content"])) is None:
                raise InputError(f"{path} lacks the prompt {shorten(messages[-1]['content'])}; allowed: its prompts.")
            rewards.append([one.share for one in score_responses([request] * len(texts), texts)])
        return rewards

    return reward


def _read_request(row: Row) -> Request:
    if isinstance(key := row.values["key"], bool) or not isinstance(key, int | str):
        raise row.wrong("key", "a number or a name")
    if not (prompt := row.text("prompt")).strip():
        raise row.wrong("prompt", "text")
    names, kwargs = row.values["instruction_id_list"], row.values["kwargs"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise row.wrong("instruction_id_list", "a list of ids, at least one")
    if not isinstance(kwargs, list) or not all(one is None or isinstance(one, dict) for one in kwargs):
        raise row.wrong("kwargs", "a list of objects, one for each instruction")
    if len(kwargs) != len(names):
        raise InputError(f"{row.where}: 'kwargs' has {len(kwargs)} objects; allowed: one an instruction, {len(names)}.")
    known = [{name: value for name, value in (one or {}).items() if value is not None} for one in kwargs]
    request = Request(key, prompt, names, known)
    with _quiet_and_repeatable():
        for name, arguments in zip(names, known, strict=True):
            if fault := _fault(name, arguments, prompt):
                raise InputError(f"{row.where}: {fault}")
    return request


def _fault(name: str, kwargs: Mapping[str, Any], prompt: str) -> str | None:
    """What is wrong with an instruction: a checker would draw missing arguments, and fail on others each time."""
    if (found := _checkers().get(name)) is None:
        near = get_close_matches(name, _checkers(), n=3) or ["IFEval's and IFBench's"]
        return f"the instruction {shorten(name)} is unknown; allowed: {', '.join(near)}."
    parameters = inspect.signature(found(name).build_description).parameters.values()
    taken = [one.name for one in parameters if one.kind is not one.VAR_KEYWORD]
    others = [] if len(taken) < len(parameters) else [one for one in kwargs if one not in taken]
    if others or not set(taken) <= set(kwargs):
        return f"the kwargs of {name} are {', '.join(kwargs) or 'none'}; allowed: {', '.join(taken) or 'none'}."
    wrong, state = f"the kwargs of {name} are {shorten(kwargs, 200)}", random.getstate()
    if any(one in kwargs and not _is_texts(kwargs[one]) for one in _LISTS):
        return f"{wrong}; allowed: a list of texts."
    try:
        found(name).build_description(**kwargs)
        if random.getstate() != state and not _is_no_letter(name, **kwargs):
            return f"{wrong}, of which the checker would replace one by a random value; allowed: what it takes."
        _check(name, kwargs, prompt, "Yes.")
    except Exception as error:
        if type(error) is LookupError and (data := re.search(r"nltk\.download\('(\w+)'\)", str(error))):
            return f"{name} needs data of NLTK that is not installed: python -m nltk.downloader {data[1]}."
        return f"{wrong}, and its checker fails: {first_line(error)}."
    return None


def _is_no_letter(name: str, *, letter: str = "", let_frequency: int = 0, **_: Any) -> bool:
    """Whether an instruction is about the frequency of a sign that is no letter, such as # in one of IFEval's own."""
    one_sign = name == "keywords:letter_frequency" and len(letter) == 1 and let_frequency >= 0
    return one_sign and not "a" <= letter.lower() <= "z"


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and value and all(isinstance(one, str) and one for one in value)


def _score(request: Request, response: str) -> Followed:
    strict, loose, errors = [], [], {}
    for name, kwargs in zip(request.instructions, request.kwargs, strict=True):
        try:
            found = _check(name, kwargs, request.prompt, response)
        except Exception as error:
            # Checkers are made for usual texts: JSON that is nested too deeply ends one with RecursionError.
            found, errors[name] = (False, False), f"{type(error).__name__}: {first_line(error)}"
        strict.append(found[0])
        loose.append(found[1])
    return Followed(strict, loose, errors)


def _check(name: str, kwargs: dict[str, Any], prompt: str, response: str) -> tuple[bool, bool]:
    """Whether a response follows an instruction, strictly and loosely."""
    from if_verifiable.common import evaluate_instructions

    random.seed(0)
    # One at a time: a checker that fails must not take the others with it.
    results, _ = evaluate_instructions(response, [name], [kwargs], prompt, _checkers())
    return (results[0].strict_pass, results[0].loose_pass) if results else (False, False)


@contextmanager
def _quiet_and_repeatable() -> Iterator[None]:
    """Checkers log each text whose language they cannot detect, and share the random numbers of the whole program."""
    state, root, handler, disabled = (
        random.getstate(),
        logging.getLogger(),
        logging.NullHandler(),
        logging.root.disabled,
    )
    # With a handler, logging.error() does not give the program one that prints.
    root.addHandler(handler)
    root.disabled = True
    try:
        yield
    finally:
        random.setstate(state)
        root.removeHandler(handler)
        root.disabled = disabled


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
        raise InputError(NEEDS_EXTRA) from error
    langdetect.DetectorFactory.seed = 0  # It guesses languages at random otherwise.
    found, parameters = punkt.load_model("english"), PunktParameters()
    for name in ("abbrev_types", "collocations", "sent_starters"):
        setattr(parameters, name, set(getattr(found, name)))
    parameters.ortho_context.update(found.ortho_context)
    tokenizer = PunktSentenceTokenizer(parameters)
    # Both places load the model once and keep it. Folders of data would have to be private, and so would all above.
    with patch("nltk.tokenize.PunktTokenizer", return_value=tokenizer), patch("nltk.data.load", return_value=tokenizer):
        nltk.word_tokenize("Yes.")
        ifeval.instructions.instructions_util.count_sentences("Yes.")
    return {**ifeval.INSTRUCTION_DICT, **ifbench.INSTRUCTION_DICT}
