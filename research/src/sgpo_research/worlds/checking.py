"""Whether a response follows constraints: the checkers of the package if-verifiable."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any


def follows(instruction_ids: Sequence[str], kwargs: Sequence[Mapping[str, Any]], response: str) -> list[bool]:
    """Whether a response follows each of its constraints, strictly: on the raw text; an empty one follows none."""
    found = []
    for name, arguments in zip(instruction_ids, kwargs, strict=True):
        checker = checkers()[name](name)
        checker.build_description(**arguments)
        found.append(bool(response.strip()) and bool(checker.check_following(response)))
    return found


@cache
def checkers() -> dict[str, type]:
    """The checkers of IFEval and IFBench by id; nothing is fetched."""
    import langdetect
    import nltk
    from nltk.tokenize.punkt import PunktTokenizer
    from punkt.data import load_bundled

    def load(self: PunktTokenizer, lang: str = "english") -> None:
        bundled, own = load_bundled(lang), self._params
        own.abbrev_types, own.collocations = bundled.abbrev_types, bundled.collocations
        own.sent_starters, own.ortho_context = bundled.sent_starters, defaultdict(int, bundled.ortho_context)
        self._lang = lang

    # The sentences come from data of a package, which NLTK would look for in its folders; IFBench would download it.
    PunktTokenizer.load_lang = load
    langdetect.DetectorFactory.seed = 0
    download, nltk.download = nltk.download, lambda *names, **options: True
    try:
        from if_verifiable.ifbench.instructions_registry import INSTRUCTION_DICT as ifbench
    finally:
        nltk.download = download
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT as ifeval

    return {**ifeval, **ifbench}
