"""Recipes are checked where they enter; every mistake is one sentence."""

import pytest
import yaml

from sgpo.config import EvaluateConfig, RunConfig, SplitConfig, named_sources, read_recipe, validate
from sgpo.config.options import JudgeOptions, PairRankerOptions, RewardOptions
from sgpo.config.section import find_section
from sgpo.errors import InputError
from sgpo.leader.config import _RANGES

RECIPE = {"output": "runs/x", "model": {"path": "m"}, "data": {"seeds": "s.jsonl", "prompts": "p.jsonl"}}


def refusal(**changes) -> str:
    with pytest.raises(InputError) as caught:
        validate(RunConfig, {**RECIPE, **changes}, "r.yaml")
    return str(caught.value)


def test_the_defaults_of_follower_generation_and_training_are_the_papers_settings():
    config = validate(RunConfig, RECIPE, "r.yaml")
    assert (config.follower.radius, config.follower.tangents, config.follower.space) == (0.01, 6, "probability")
    assert (config.generation.temperature, config.generation.max_new_tokens) == (0.7, 300)
    assert (config.leader.beta, config.leader.seed_epochs, config.rounds) == (0.1, 3, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"follower": {"radus": 1}},
            "r.yaml: unknown key follower.radus; allowed: radius, radius_factor, radius_grid, source_radius, space,",
        ),
        ({"foo": 1}, "unknown key foo; allowed: output, seed,"),
        ({"follower": {"radius": float("nan")}}, "follower.radius is nan; allowed: a finite number >= 0, or 'meas"),
        ({"follower": {"space": "x"}}, "follower.space is 'x'; allowed: 'margin' or 'probability'."),
        ({"reference": "last"}, "reference is 'last'; allowed: 'sft' or 'previous'."),
        ({"generation": {"candidates": 1}}, "generation.candidates is 1; allowed: a whole number >= 2."),
        ({"leader": {"batch_size": 6}}, "batch_size is 6; allowed: a multiple of micro_batch_size (4)"),
        ({"rounds": 2, "data": {"seeds": "s", "prompts": "p", "prompts_per_round": [3]}}, "one per round (2)"),
        ({"data": {"seeds": "s"}}, "data.prompts is missing"),
        # The default needs validation pairs; the message names the way without.
        ({"data": {"seeds": "s", "prompts": "p", "validation_share": 0}}, "leader.accept='always' need none."),
        ({"rounds": 2, "data": {"seeds": "s", "prompts": ["p"]}}, "allowed: one pool, or one per round (2)"),
        ({"model": {}}, "model.path is missing"),
        ({"annotation": {"annotator": "judge"}}, "annotation: model is missing; annotator 'judge' needs it."),
        ({"annotation": {"model": "m"}}, "annotation: model is 'm' with annotator 'implicit', which takes none."),
        (
            {"annotation": {"per_token": True, "length_penalty": 0.1}},
            "annotation: per_token is true with length_penalty 0.1; allowed: one of the two.",
        ),
        (
            {"annotation": {"annotator": "function", "function": "f.py:f", "options": {"seed": 1}}},
            "annotation: options is {'seed': 1} with annotator 'function', which takes none.",
        ),
        ({"generation": {"backend": "server"}}, "generation: servers is missing; backend 'server' needs it."),
        ({"generation": {"servers": ["u"]}}, "servers is ['u'] with backend 'transformers', which takes none."),
        ({"generation": {"vllm": {"python": "p"}}}, "with backend 'transformers', which takes none."),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(changes, said):
    assert said in refusal(**changes)


WRONG_VALUES = {
    "follower.radius is -1": ({"follower": {"radius": -1}}, "a number >= 0, or 'measured' or 'validated'"),
    "follower.radius is inf": (
        {"follower": {"radius": float("inf")}},
        "a finite number >= 0, or 'measured' or 'validated'",
    ),
    "follower.tangents is 0": ({"follower": {"tangents": 0}}, "a whole number >= 1, or null for the exact link"),
    "follower.source_radius is {'other': 1, 'self': -1}": (
        {"follower": {"source_radius": {"other": 1, "self": -1}}},
        "keys among 'human' or 'self', with numbers >= 0, or null",
    ),
    "follower.window is [1]": ({"follower": {"window": [1]}}, "a list of 2 numbers, or null"),
    "follower.radius_grid is ['a', -1]": ({"follower": {"radius_grid": ["a", -1]}}, "a list of numbers >= 0"),
    "data.prompts is 3": ({"data": {"prompts": 3}}, "a path, or a list of paths, or null"),
    "data.prompts is [3, 4]": ({"data": {"prompts": [3, 4]}}, "a path, or a list of paths, or null"),
    "data.prompts_per_round is [0]": (
        {"data": {"prompts_per_round": [0]}},
        "a whole number >= 1, or a list of whole numbers >= 1, or null",
    ),
    "data.seeds_in_rounds is 'x'": ({"data": {"seeds_in_rounds": "x"}}, "true or false"),
    "data.split.sources is []": (
        {"data": {"split": {"sources": [], "pools": [1]}}},
        "a list of sections with keys of length >= 1",
    ),
    "rounds is 'two'": ({"rounds": "two"}, "a whole number >= 0"),
    "seed is -1": ({"seed": -1}, "a whole number >= 0 and < 2147483648"),
    "output is empty": ({"output": None}, "a folder"),
    "model is 3": ({"model": 3}, "a section with keys"),
    "evaluate.0 is 3": ({"evaluate": [3]}, "a section with keys"),
    "evaluate.0.name is 'a b'": (
        {"evaluate": [{"kind": "alpaca", "name": "a b", "instructions": "i"}]},
        "a text like ^[A-Za-z0-9][A-Za-z0-9_-]*$, or null",
    ),
    "generation.stop is ['']": ({"generation": {"stop": [""]}}, "a list of texts of length >= 1"),
    "generation.vllm.python is 3": ({"generation": {"vllm": {"python": 3}}}, "a text, or a path, or null"),
    "leader.trainer is [1]": ({"leader": {"trainer": [1]}}, "keys with values"),
}


def test_a_key_with_a_wrong_value_gets_one_sentence_in_the_words_of_a_recipe():
    """Also a key that takes several types, for which pydantic has an error each; and nothing of pydantic's."""
    for found, (changes, allowed) in WRONG_VALUES.items():
        assert refusal(**changes) == f"r.yaml: {found}; allowed: {allowed}."


def test_every_type_of_a_key_has_words():
    def of(kind, content, place):
        """A recipe with one wrong value at each key in turn."""
        for name, field in kind.model_fields.items():
            wrong = object()
            yield ".".join([*place, name]), {**content, name: wrong}
            section = find_section(field.annotation)
            if section and not isinstance(field.default, list) and not field.is_required():
                for key, inner in of(section, {}, [*place, name]):
                    yield key, {**content, name: inner}

    others = (RewardOptions, PairRankerOptions, JudgeOptions, EvaluateConfig, SplitConfig, _RANGES)
    for kind, base in [(RunConfig, RECIPE), *((other, {}) for other in others)]:
        for key, content in of(kind, base, []):
            with pytest.raises(InputError) as caught:
                validate(kind, content, "r.yaml")
            assert f"r.yaml: {key} is <object object" in str(caught.value)


@pytest.mark.parametrize("key", ["seeds", "seeds_split", "prompts", "prompts_split", "heldout", "heldout_split"])
def test_what_a_split_supplies_is_refused_beside_it(key):
    split = {"sources": [{"path": "d"}], "pools": [1, 1, 1]}
    assert f"data.{key} is given with data.split, which supplies it" in refusal(data={"split": split, key: "x"})


def test_every_mistake_is_listed_at_once():
    assert len(refusal(foo=1, rounds="many").splitlines()) == 2


def test_dotted_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("rounds: 3\nfollower: {radius: 0.01, tangents: 6}\n")
    content = read_recipe(path, ["follower.radius=0.05", "rounds=2", "leader.beta=0.2"])
    assert content == {"rounds": 2, "follower": {"radius": 0.05, "tangents": 6}, "leader": {"beta": 0.2}}


@pytest.mark.parametrize("override", ["rounds", "=3", "a..b=1", "rounds.x=1", "x={"])
def test_a_malformed_override_is_quoted(tmp_path, override):
    path = tmp_path / "r.yaml"
    path.write_text("rounds: 3\n")
    with pytest.raises(InputError, match="override"):
        read_recipe(path, [override])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "holds a list"),
        ("a: [\n", "not valid YAML"),
        ("seed: 2020-99-99\n", "not valid YAML"),
        (b"\xff\xfe\xff", "not valid UTF-8"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, said):
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=said):
        read_recipe(path, [])


def test_a_recipe_that_an_editor_on_windows_has_saved_is_the_same(tmp_path):
    text = "output: runs/é\nmodel:\n  path: a\n"
    (tmp_path / "r.yaml").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    assert read_recipe(tmp_path / "r.yaml", []) == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["evaluate: &a [*a]", "data: &a {split: *a, seeds: *a}"])
def test_an_alias_of_what_it_is_in_is_refused(tmp_path, text):
    (tmp_path / "r.yaml").write_text(f"output: runs/x\n{text}\n")
    with pytest.raises(InputError, match=r"r\.yaml: not valid YAML: Circular reference"):
        read_recipe(tmp_path / "r.yaml", [])


def test_an_alias_of_something_else_is_its_value(tmp_path):
    (tmp_path / "r.yaml").write_text("data: &a {seeds: s.jsonl}\nmodel: {<<: *a, path: m}\n")
    assert read_recipe(tmp_path / "r.yaml", [])["model"] == {"seeds": "s.jsonl", "path": "m"}


def test_yaml_cannot_build_python_objects(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("rounds: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(InputError, match="not valid YAML"):
        read_recipe(path, [])


def test_the_named_sources_are_every_model_and_dataset_but_a_judges():
    content = {
        "output": "no/source",
        "model": {"path": "m", "adapter": "a", "dtype": "auto"},
        "data": {
            "seeds": "s",
            "prompts": ["p1", "p2"],
            "heldout": None,
            "split": {"sources": [{"path": "x", "weight": 1}, {"path": "y"}, "no source"], "pools": [1]},
        },
        "annotation": {"annotator": "judge", "model": "a name on a server"},
        "evaluate": [
            {"kind": "judge", "prompts": "jp", "model": "another", "baseline": "b"},
            {"kind": "reward", "model": "rm", "prompts": "rp"},
            {"kind": "preferences", "pairs": "pp"},
        ],
    }
    assert sorted(named_sources(content)) == sorted(["m", "a", "s", "p1", "p2", "x", "y", "jp", "b", "rm", "rp", "pp"])
    assert named_sources({"annotation": {"annotator": "reward_model", "model": "rm"}}) == ["rm"]


@pytest.mark.parametrize(
    "content", [{}, {"model": "m"}, {"data": [1]}, {"data": {"split": 3, "seeds": 1}}, {"evaluate": {"kind": []}}]
)
def test_what_is_no_recipe_names_no_source(content):
    """It is validated afterwards."""
    assert named_sources(content) == []
