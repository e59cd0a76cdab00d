import numpy as np
import pytest

from refusals import unrefused
from sgpo.errors import InputError
from sgpo.preferences.annotators.function import FunctionAnnotator

PROMPTS = [[{"role": "user", "content": "one"}], [{"role": "user", "content": "three"}]]
RESPONSES = [["a", "bbb"], ["", "cc", "d"]]


@pytest.fixture
def annotator(tmp_path):
    def write(body, name="by_hand"):
        file = tmp_path / f"{name}.py"
        file.write_text(body)
        return FunctionAnnotator(f"{file}:rank")

    return write


def returning(values):
    return f"nan, inf = float('nan'), float('inf')\ndef rank(prompts, responses):\n    return {values}\n"


LENGTHS = """
def rank(prompts, responses):
    return [
        [len(text) + 10 * len(messages[-1]["content"]) for text in texts]
        for messages, texts in zip(prompts, responses, strict=True)
    ]
"""


def test_a_file_of_python_ranks_by_what_its_function_returns(annotator):
    seen = []
    found = annotator(LENGTHS)(PROMPTS, RESPONSES, progress=seen.append)
    np.testing.assert_array_equal(found.rewards, [31, 33, 50, 52, 51])
    assert found.rewards.dtype == np.float64
    assert sum(seen) == 2


def test_a_function_of_an_installed_module_is_found_by_name():
    assert FunctionAnnotator("statistics:mean")
    with pytest.raises(InputError, match="statistics has no function 'meen'"):
        FunctionAnnotator("statistics:meen")


def test_the_function_gets_copies_of_the_lists(annotator):
    rank = annotator(
        "def rank(prompts, responses):\n    counts = [len(r) for r in responses]\n"
        "    responses[0].clear(), prompts[0].clear()\n    return [[0] * n for n in counts]\n"
    )
    prompts, responses = [list(PROMPTS[0])], [list(RESPONSES[0])]
    rank(prompts, responses)
    assert (prompts, responses) == (PROMPTS[:1], RESPONSES[:1])


@pytest.mark.parametrize("unknown", ["nan", "None"])
def test_a_missing_reward_is_nan(annotator, unknown):
    found = annotator(returning(f"[[1, {unknown}], [1, 2, 3]]"))(PROMPTS, RESPONSES)
    np.testing.assert_array_equal(found.rewards, [1, np.nan, 1, 2, 3])


def test_arrays_and_numpy_numbers_are_numbers(annotator):
    found = annotator("import numpy as np\ndef rank(p, r):\n    return [np.arange(len(t)) for t in r]\n")
    np.testing.assert_array_equal(found(PROMPTS, RESPONSES).rewards, [0, 1, 0, 1, 2])


def test_a_file_may_define_a_dataclass_and_have_the_name_of_any_module(annotator):
    body = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Rule:\n"
        "    factor: float = 2.0\n" + returning("[[Rule().factor] * len(texts) for texts in responses]")
    )
    found = annotator(body, name="json")(PROMPTS, RESPONSES)
    assert found.rewards.tolist() == [2.0] * 5
    import json

    assert json.loads("1") == 1


def test_a_dict_has_the_rewards_and_the_parts_that_they_consist_of(annotator):
    body = "{'facts': [[1, None], [0, 1, 0]], 'reward': [[3, 2], [1, nan, 0]], 'tone': [[0, 1], [2, 3, 4]]}"
    found = annotator(returning(body))(PROMPTS, RESPONSES)
    np.testing.assert_array_equal(found.rewards, [3, 2, 1, np.nan, 0])
    assert [*found.parts] == ["facts", "tone"]
    np.testing.assert_array_equal(found.parts["facts"], [1, np.nan, 0, 1, 0])
    np.testing.assert_array_equal(found.parts["tone"], [0, 1, 2, 3, 4])
    assert annotator(LENGTHS)(PROMPTS, RESPONSES).parts == {}


BAD = [
    ("{'facts': [[1, 2], [1, 2, 3]]}", r"returned a dict of \['facts'\]; allowed: one with the key 'reward'"),
    ("{'reward': [[1, 2], [1, 2, 3]], 'tone': [[1, 2]]}", "tone returned 1 rows; allowed: one per prompt, 2"),
    ("{'reward': [[1, 2], [1, 2, 3]], 'tone': [[1, 2], [1, 2]]}", "tone, row 1: the shape .2,.; allowed: one number"),
    ("{'reward': [[1, 2], [1, inf, 3]]}", "row 1: .*inf.*; allowed: finite numbers, or nan"),
    ("[[1, 2]]", "returned 1 rows; allowed: one per prompt, 2"),
    ("[1, 2, 3, 4, 5]", "returned 5 rows"),
    ("[[1, 2], [1, 2]]", r"row 1: the shape \(2,\); allowed: one number per response, 3"),
    ("[[[1], [2]], [1, 2, 3]]", r"row 0: the shape \(2, 1\)"),
    ("[[[1], [2, 3]], [1, 2, 3]]", "row 0: .*; allowed: one number per response, 2"),
    ("[[1, 2], ['a', 'b', 'c']]", "row 1: .*; allowed: one number per response, 3"),
    ("[[1, inf], [1, 2, 3]]", "row 0: .*inf.*; allowed: finite numbers, or nan"),
    ("None", "returned None; allowed: a list of numbers for each prompt"),
    ("3.5", "returned 3.5; allowed: a list"),
]


def test_what_is_not_one_number_per_response_is_named_with_its_row(annotator):
    assert unrefused(lambda values: annotator(returning(values))(PROMPTS, RESPONSES), BAD) == {}


def test_an_error_of_the_function_is_the_functions(annotator):
    with pytest.raises(ZeroDivisionError):
        annotator(returning("1 / 0"))(PROMPTS, RESPONSES)


def test_a_function_that_is_not_there_is_named():
    cases = [
        ("module", "function is 'module'; allowed: 'package.module:function' or 'file.py:function'"),
        (":rank", "function is ':rank'"),
        ("module:", "function is 'module:'"),
        ("no_such_module.inner:rank", "there is no module 'no_such_module.inner'"),
        ("nowhere/file.py:rank", "nowhere/file.py does not exist"),
        ("math:pi", "math has no function 'pi'"),
    ]
    assert unrefused(FunctionAnnotator, cases) == {}


def test_a_module_that_a_file_lacks_is_named_as_python_does(tmp_path):
    (tmp_path / "lacking.py").write_text("import no_such_module_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        FunctionAnnotator(f"{tmp_path / 'lacking.py'}:rank")
