"""The commands do what the library does, on real files."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_from_disk
from transformers import AutoModelForCausalLM

from integration.test_resume import CHOICE, STAGES
from sgpo.cli import main
from sgpo.config import RunConfig, read_recipe, validate
from sgpo.config.game import FollowerSettings
from sgpo.plan.run import plan_run
from sgpo.policy.load import load_policy
from sgpo.policy.score import score_responses
from sgpo.robust.exact import worst_case

DEFAULTS = FollowerSettings()
GAPS = np.random.default_rng(0).normal(0.3, 1.0, 200)


@pytest.fixture(params=["gaps.txt", "gaps.npy", "gaps.parquet"])
def gaps_file(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".txt":
        path.write_text("".join(f"{gap!r}\n" for gap in GAPS.tolist()))
    elif path.suffix == ".npy":
        np.save(path, GAPS)
    else:
        pq.write_table(pa.table({"other": GAPS * 0, "gap": GAPS}), path)
    return path


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ([], {"space": DEFAULTS.space, "tangents": DEFAULTS.tangents}),
        (["--window", "0", "0.99"], {"space": "probability", "window": (0, 0.99), "tangents": 6}),
        (["--window", "0.01", "1", "--tangents", "0"], {"space": "probability", "window": (0.01, 1)}),
        (["--space", "margin", "--window", "-5", "5"], {"space": "margin", "window": (-5, 5), "tangents": 6}),
        (["--space", "margin", "--window", "-5", "5", "--tangents", "0"], {"space": "margin", "window": (-5, 5)}),
    ],
)
def test_worst_case_prints_what_the_library_returns(capsys, gaps_file, arguments, keywords):
    """Without settings they are those of SGPOConfig; 0 tangents are the exact link."""
    assert main(["worst-case", str(gaps_file), "--radius", "0.05", *arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    expected = worst_case(GAPS, 0.05, **keywords)
    for name in ("value", "empirical_value", "price", "moved_share"):
        assert printed[name] == pytest.approx(getattr(expected, name), rel=1e-12)
    np.testing.assert_allclose(printed["atoms"], expected.atoms)
    assert sum(printed["atom_weights"]) == pytest.approx(1)
    assert (printed["space"], printed["tangents"]) == (keywords["space"], keywords.get("tangents", 0))


def test_worst_case_without_json_is_for_people(capsys, gaps_file):
    assert main(["worst-case", str(gaps_file), "--radius", "0.05"]) == 0
    words = capsys.readouterr().out.split()
    assert {"value", "empirical_value", "price", "moved_share", "atoms"} <= set(words)


def test_dry_run_writes_nothing_and_counts_what_the_run_then_does(capsys, recipe):
    before = sorted(recipe.parent.rglob("*"))
    assert main(["run", "--config", str(recipe), "--dry-run"]) == 0
    plan = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert sorted(recipe.parent.rglob("*")) == before
    assert "8 human pairs, scored by the reference" in plan
    assert "6 prompts, 18 responses" in plan
    assert main(["run", "--config", str(recipe), "--quiet"]) == 0
    round_1 = json.loads((recipe.parent / "run/round-1/metrics.json").read_text())
    assert (round_1["annotation"]["prompts"], round_1["annotation"]["responses"]) == (6, 18)
    assert f"at most {round_1['leader']['steps']} steps" in plan


def test_a_plan_names_the_stages_of_the_run_in_their_order(recipe):
    """`STAGES` is what the manifest of such a run says (test_resume)."""
    config = validate(RunConfig, read_recipe(recipe, CHOICE), "recipe.yaml")
    unplanned = ("metrics.json", "validation.json", "final/pairs")
    assert [stage.name for stage in plan_run(config).stages] == [
        stage for stage in STAGES if not stage.endswith(unplanned)
    ]


def test_overrides_count_wherever_they_stand(capsys, recipe):
    plans = []
    for order in (
        ["--config", str(recipe), "--dry-run", "rounds=1", "generation.candidates=2", "data.seed_pairs=5"],
        ["rounds=1", "--config", str(recipe), "generation.candidates=2", "--dry-run", "data.seed_pairs=5"],
    ):
        # Without hardware a plan measures this machine, which is never twice the same.
        assert main(["run", *order, "hardware.devices=1"]) == 0
        plans.append(capsys.readouterr().out)
    assert plans[0] == plans[1]
    plan = " ".join(plans[1].replace("│", " ").split())
    assert "12 prompts, 24 responses" in plan
    assert "5 human pairs, scored by the reference" in plan


def test_of_two_overrides_of_a_key_the_last_one_wins_across_options(capsys, recipe):
    assert main(["run", "rounds=x", "--config", str(recipe), "rounds=y", "--dry-run", "rounds=z"]) == 2
    assert "rounds is 'z'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--radius", "--dryrun", "-q"])
def test_an_option_that_a_run_does_not_have_is_refused_between_overrides(capsys, recipe, option):
    with pytest.raises(SystemExit) as caught:
        main(["run", "rounds=1", "--config", str(recipe), option, "seed=1", "--quiet"])
    assert caught.value.code == 2
    assert f"sgpo run: error: unrecognized arguments: {option}" in capsys.readouterr().err


def test_a_run_keeps_what_its_report_and_its_next_stage_need(recipe, micro_model):
    assert main(["run", "--config", str(recipe), "--quiet"]) == 0
    run = recipe.parent / "run"
    pairs = load_from_disk(run / "round-1/pairs")
    gaps = np.array(pairs["gap"])

    # Every stored score is the score that the named model gives to the stored text.
    policy, reference = load_policy(run / "round-0/policy"), load_policy(micro_model)
    chosen = [row[0]["content"] for row in pairs["chosen"]]
    for column, model in (("chosen_logps", policy), ("ref_chosen_logps", reference)):
        again = score_responses(model, pairs["prompt"][:], chosen).logps
        np.testing.assert_allclose(pairs[column], again, atol=1e-4)
    beta = 0.1
    own = np.array(pairs["chosen_logps"]) - np.array(pairs["rejected_logps"])
    refs = np.array(pairs["ref_chosen_logps"]) - np.array(pairs["ref_rejected_logps"])
    np.testing.assert_allclose(gaps, beta * (own - refs), atol=1e-9)

    # Self-annotated pairs are ranked by the policy itself; human pairs keep the human's order.
    sources = np.array(pairs["source"])
    assert set(sources) == {"self", "human"}
    assert (gaps[sources == "self"] > 0).all()

    # The worst case on disk is that of these gaps, and the metrics repeat it.
    worst = worst_case(gaps, 0.05, space="probability", tangents=6)
    table = pq.read_table(run / "round-1/worst_case.parquet").to_pydict()
    np.testing.assert_allclose(table["moved"], worst.moved)
    metrics = json.loads((run / "metrics.jsonl").read_text().splitlines()[1])
    assert metrics["follower"]["value"] == pytest.approx(worst.value)
    assert metrics["follower"]["price"] == pytest.approx(worst.price)
    assert metrics["heldout"]["pairs"] == 4
    assert (run / "report.html").read_text().startswith("<!")


def test_rounds_share_no_prompt(recipe):
    assert main(["run", "--config", str(recipe), "--quiet"]) == 0
    used = [
        {row[0]["content"] for row in load_from_disk(recipe.parent / f"run/round-{number}/responses")["prompt"]}
        for number in (1, 2)
    ]
    assert len(used[0]) == len(used[1]) == 6
    assert not used[0] & used[1]


def test_report_rebuilds_the_same_page(recipe, capsys):
    assert main(["run", "--config", str(recipe), "--quiet"]) == 0
    page = recipe.parent / "run/report.html"
    first = page.read_bytes()
    page.unlink()
    assert main(["report", str(page.parent)]) == 0
    assert page.read_bytes() == first


def test_train_moves_a_policy_as_its_yaml_says(recipe, micro_model):
    output = recipe.parent / "trained"
    config = {
        "model_name_or_path": micro_model,
        "dataset_name": str(recipe.parent / "seeds.jsonl"),
        "output_dir": str(output),
        "use_cpu": True,
        "bf16": False,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "radius": 0.1,
        "report_to": "none",
        "save_strategy": "no",
        "dtype": "float32",
        "dataloader_pin_memory": False,
    }
    (recipe.parent / "train.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--config", str(recipe.parent / "train.yaml"), "--beta", "0.5"]) == 0
    before = AutoModelForCausalLM.from_pretrained(micro_model).state_dict()
    after = AutoModelForCausalLM.from_pretrained(output).state_dict()
    assert any(not before[name].equal(after[name]) for name in before)


def numbers(recipe, *overrides):
    """Runs a recipe with overrides into a directory of its own and returns round 1's metrics and that directory."""
    output = recipe.parent / f"run-{len(list(recipe.parent.glob('run-*')))}"
    assert main(["run", "--config", str(recipe), "--quiet", f"output={output}", "rounds=1", *overrides]) == 0
    return json.loads((output / "round-1/metrics.json").read_text()), output


def test_every_solver_gives_the_loop_the_same_worst_case(recipe):
    exact, _ = numbers(recipe, "follower.solver=exact")
    highs, _ = numbers(recipe, "follower.solver=highs")
    assert highs["follower"]["value"] == pytest.approx(exact["follower"]["value"], abs=1e-6)


def test_groups_weaken_the_follower(recipe):
    whole, _ = numbers(recipe, "follower.solver=exact")
    groups, _ = numbers(recipe, "follower.group_size=4")
    assert groups["follower"]["value"] <= whole["follower"]["value"] + 1e-12


def test_a_running_window_smaller_than_the_round_still_says_what_every_pair_does(recipe):
    metrics, output = numbers(recipe, "follower.schedule=step", "follower.recent_pairs=10")
    table = pq.read_table(output / "round-1/worst_case.parquet").to_pydict()
    moved, points = np.array(table["moved"]), np.array(table["point"])
    assert metrics["follower"]["pairs"] == 10 < len(moved) == len(load_from_disk(output / "round-1/pairs"))
    assert set(moved[points < metrics["follower"]["marginal"] - 1e-9]) <= {1.0}
    assert set(moved[points > metrics["follower"]["marginal"] + 1e-9]) <= {0.0}


def test_seeds_can_stay_at_radius_zero(recipe):
    metrics, output = numbers(recipe, "follower.source_radius={human: 0, self: 0.05}")
    table = pq.read_table(output / "round-1/worst_case.parquet").to_pydict()
    sources = np.array(load_from_disk(output / "round-1/pairs")["source"])
    moved = np.array(table["moved"])
    assert moved[sources == "human"].max() == 0
    assert moved[sources == "self"].mean() == pytest.approx(metrics["follower"]["by_source"]["self"]["moved_share"])
    assert metrics["follower"]["moved_share"] == pytest.approx(moved.mean())


def test_the_previous_policy_as_reference_makes_every_first_gap_zero(recipe):
    _, output = numbers(recipe, "reference=previous")
    assert set(pq.read_table(output / "round-1/worst_case.parquet")["gap"].to_pylist()) == {0.0}
    log = json.loads((output / "round-1/policy/training_log.json").read_text())
    assert log[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)


def test_lora_rounds_leave_policies_like_any_other(recipe, micro_model):
    _, output = numbers(recipe, "leader.lora={r: 4, target_modules: [q_proj, v_proj]}", "leader.learning_rate=0.01")
    base, trained = load_policy(micro_model), load_policy(output / "round-1/policy")
    changed = {
        name for name, weight in trained.model.state_dict().items() if not weight.equal(base.model.state_dict()[name])
    }
    assert changed
    assert all("q_proj" in name or "v_proj" in name for name in changed)


def test_the_leaders_reference_score_is_that_of_the_pairs_it_saw(recipe):
    one_batch = ["leader.batch_size=32", "leader.micro_batch_size=32", "leader.warmup_share=0"]
    metrics, output = numbers(recipe, *one_batch, "leader.learning_rate=0.003")
    leader, pairs = metrics["leader"], load_from_disk(output / "round-1/pairs")
    assert leader["steps"] == 1
    assert leader["chosen_logps"] == pytest.approx(np.mean(pairs["chosen_logps"][:]), abs=1e-2)
    assert leader["reference_chosen_logps"] == pytest.approx(np.mean(pairs["ref_chosen_logps"][:]), abs=1e-2)
    assert abs(leader["chosen_logps"] - leader["reference_chosen_logps"]) > 0.1


def test_radii_by_source_add_up_to_one_value(recipe):
    metrics, output = numbers(recipe, "follower.source_radius={human: 0, self: 0.05}")
    pairs = load_from_disk(output / "round-1/pairs")
    gaps, own = np.array(pairs["gap"]), np.array(pairs["source"]) == "self"
    worst = worst_case(gaps[own], 0.05, space="probability", tangents=6)
    expected = (own.sum() * worst.value + np.logaddexp(0, -gaps[~own]).sum()) / len(gaps)
    assert metrics["follower"]["value"] == pytest.approx(expected)


def test_another_model_at_the_references_path_is_found_out(recipe, tmp_path, capsys):
    """The seeds say who the reference is; a round scored by somebody else is refused."""
    content = yaml.safe_load(recipe.read_text())
    model = tmp_path / "reference"
    shutil.copytree(content["model"]["path"], model)
    options = [
        "run",
        "--config",
        str(recipe),
        "--quiet",
        f"model.path={model}",
        "rounds=1",
        "data.seeds_in_rounds=false",
    ]
    assert main(options) == 0
    shutil.rmtree(recipe.parent / "run/round-1")
    weights = AutoModelForCausalLM.from_pretrained(model)
    weights.model.embed_tokens.weight.data.mul_(1.01)
    weights.save_pretrained(model)
    capsys.readouterr()
    assert main(options) == 2
    assert "was scored by the reference" in capsys.readouterr().err


def test_prompts_that_leave_no_room_are_noted_left_out_and_counted(recipe, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    rows = [{"prompt": f"Who is {number}?"} for number in range(10)] + [{"prompt": "bridge " * 300}] * 2
    (recipe.parent / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["run", "--config", str(recipe), "rounds=1"]
    assert main([*options, "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    first = f"{recipe.parent / 'prompts.jsonl'} line 11,"
    assert f"2 of 12 prompts have more than 127 tokens (the first: {first}" in said
    assert main([*options, "--quiet"]) == 0
    counts = json.loads((recipe.parent / "run/round-1/pairs/annotation.json").read_text())
    assert len(load_from_disk(recipe.parent / "run/round-1/responses")) == 10
    assert counts["dropped"]["too_long"] == 2
    assert counts["prompts"] == 12 == counts["paired"] + sum(counts["dropped"].values())
