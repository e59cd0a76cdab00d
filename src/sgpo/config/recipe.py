"""A recipe: what `sgpo run` takes, checked where it enters. Below the loop, functions take plain arguments."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sgpo.errors import InputError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
# Of the seeds' prompts, where pairs are set aside and the recipe does not say how many.
VALIDATION_SHARE = 0.2


class Section(BaseModel):
    """A part of a recipe: frozen, its defaults checked, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


class ModelConfig(Section):
    """The SFT model that the run starts from and refers to."""

    path: str | None = Field(None, description="Folder or Hub id of the SFT model.")
    adapter: str | None = Field(None, description="PEFT adapter to merge into the model.")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32", description="Weights of policy and reference alike; bfloat16 and float16 also train in it."
    )
    trust_remote_code: bool = Field(False, description="Run model code that comes with a Hub repository.")
    parameters: Count | None = Field(None, description="Number of its weights, for plans made without the Hub.")


class SourceConfig(Section):
    """A dataset of preference pairs, and its share of a mixture."""

    path: str = Field(description="File, folder or Hub id.")
    weight: Positive = Field(1.0, description="Its share of the rows, beside the other sources'.")
    split: str | None = Field(None, description="Split of the dataset, where there are any; null: train.")


class SplitConfig(Section):
    """Seeds, pools and held-out pairs drawn from sets of preference pairs, with no prompt in two of them."""

    sources: Annotated[list[SourceConfig], Field(min_length=1)] = Field(description="Where the pairs come from.")
    seeds: Count = Field(2000, description="Seed pairs.")
    pools: list[Count] = Field(description="Prompts of each round.")
    heldout: Annotated[int, Field(ge=0)] = Field(0, description="Held-out pairs.")
    selection: Literal["random", "farthest"] = Field(
        "random", description="How seeds are chosen; farthest points of the SFT model's hidden states, or at random."
    )
    max_prompt_chars: Count | None = Field(None, description="Prompts with more characters are left out.")


class DataConfig(Section):
    """Human pairs to start from, prompts to annotate, and human pairs to judge by."""

    seeds: str | None = Field(None, description="Preference pairs: file, folder or Hub id.")
    seeds_split: str | None = Field(None, description="Split of the seeds, where there are any; null: train.")
    seed_pairs: Count | None = Field(None, description="How many to draw at random; null takes all.")
    prompts: str | list[str] | None = Field(
        None, description="Prompts to annotate: file, folder or Hub id; a list gives each round its own."
    )
    prompts_split: str | None = Field(None, description="Split of the prompts; null: train.")
    prompts_per_round: Count | list[Count] | None = Field(
        None, description="Fresh prompts per round: a number, a list, or null for an even share of the pool."
    )
    heldout: str | None = Field(None, description="Human pairs to report accuracy on; never trained on.")
    heldout_split: str | None = Field(None, description="Split of the held-out pairs; null: train.")
    split: SplitConfig | None = Field(None, description="Draws all of these instead; see below.")
    validation_share: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="Share of the seeds' prompts set aside to judge by; null: 0.2 where it is needed, else 0."
    )
    seeds_in_rounds: bool = Field(False, description="Add the seed pairs to the self-annotated pairs of every round.")


class GenerationConfig(Section):
    """How the policy answers the prompts of a round (the paper: 2 responses, T = 0.7, at most 300 tokens)."""

    backend: Literal["transformers", "vllm", "server"] = Field(
        "transformers", description="In process, vLLM in a process of its own, or servers with the OpenAI API."
    )
    candidates: Annotated[int, Field(ge=2)] = Field(2, description="Responses per prompt.")
    temperature: Positive = Field(0.7, description="Of sampling.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Nucleus of sampling; 1 is all of it.")
    max_new_tokens: Count = Field(300, description="A response that reaches it is unfinished, and dropped.")
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, description="Texts at which a response ends, beside the policy's own end."
    )
    batch_size: Count = Field(32, description="Responses generated at once in process.")
    shard_size: Count = Field(512, description="Prompts of a shard: what an interrupted run repeats at most.")
    vllm: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of VLLMGenerator, such as python or tensor_parallel_size."
    )
    servers: list[str] = Field(
        default_factory=list, description="Base URLs, such as http://localhost:8000/v1, with backend `server`."
    )
    server_command: str | None = Field(
        None,
        description="Starts the servers for each round: {policy} is its folder. null: they run, and load by folder.",
    )
    server_dialect: Literal["vllm", "transformers", "openai"] = Field(
        "vllm", description="Further fields of a request: how a server is told to sample the policy as it is."
    )
    server_options: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of ServerPool, such as timeout, retries, concurrency."
    )

    @model_validator(mode="after")
    def _servers_go_with_their_backend(self) -> "GenerationConfig":
        if (self.backend == "server") != bool(self.servers):
            raise ValueError(
                f"servers is {self.servers} with backend={self.backend!r}; allowed: at least one URL with backend "
                "'server', none otherwise"
            )
        if self.backend != "server" and (self.server_command or self.server_options):
            raise ValueError(f"server_command or server_options with backend={self.backend!r}; allowed: 'server'")
        if self.backend != "vllm" and self.vllm:
            raise ValueError(f"vllm is {self.vllm} with backend={self.backend!r}; allowed: backend 'vllm'")
        return self


class AnnotationConfig(Section):
    """Who ranks the responses of a prompt, and which of them make a pair."""

    annotator: Literal["implicit", "reward_model", "pair_ranker", "judge", "function"] = Field(
        "implicit", description="The policy's own implicit reward (the paper), a model, an LLM judge, or a function."
    )
    model: str | None = Field(
        None, description="Folder or Hub id of the reward model or pair ranker, or the judge's model name."
    )
    function: str | None = Field(None, description="`package.module:function` or `file.py:function`.")
    servers: list[str] = Field(default_factory=list, description="Base URLs of the judge.")
    template: str | None = Field(None, description="File with the judge's prompt; null: the one that comes along.")
    options: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the annotator.")
    choice: Literal["best_worst", "best_random", "all"] = Field(
        "best_worst", description="Pairs of a prompt: best and worst, best and a random worse one, or all."
    )
    min_margin: NotNegative = Field(0.0, description="Pairs whose rewards differ by no more are dropped.")
    per_token: bool = Field(False, description="Rank by the reward per token.")
    length_penalty: NotNegative = Field(0.0, description="Reward taken off for each token before ranking.")

    @model_validator(mode="after")
    def _the_annotator_has_what_it_needs(self) -> "AnnotationConfig":
        needs = {
            "implicit": set(),
            "reward_model": {"model"},
            "pair_ranker": {"model"},
            "judge": {"model", "servers"},
            "function": {"function"},
        }[self.annotator]
        may = needs | ({"template"} if self.annotator == "judge" else set())
        may |= {"options"} if self.annotator != "implicit" else set()
        for key in ("model", "function", "servers", "template", "options"):
            value = getattr(self, key)
            if key in needs and not value:
                raise ValueError(f"{key} is missing; annotator {self.annotator!r} needs it")
            if key not in may and value:
                raise ValueError(f"{key} is {value!r} with annotator {self.annotator!r}, which takes none")
        return self


class FollowerConfig(Section):
    """The adversary: worst case of the gaps in a Wasserstein ball. What goes together is checked by SGPOConfig."""

    radius: NotNegative | Literal["measured", "validated"] = Field(
        0.01,
        description="Wasserstein radius, in the unit of the gap space; 0 is DPO. Or found in each round; see below.",
    )
    radius_factor: NotNegative = Field(1.0, description="What the measured radius is multiplied by.")
    radius_grid: list[NotNegative] = Field(
        [0.0, 0.01, 0.05, 0.1], description="What the validated radius is chosen from; each costs a training."
    )
    source_radius: dict[Literal["human", "self"], NotNegative] | None = Field(
        None, description="Radius of human seeds and of self-annotated pairs, in place of `radius`."
    )
    space: Literal["margin", "probability"] = Field("probability", description="The gap (nats), or its sigmoid.")
    tangents: Count | None = Field(6, description="The paper's K; null: the exact link.")
    window: tuple[float, float] | None = Field(
        None, description="Support [a, b]; null: [0, 1] in probability space, required in margin space."
    )
    window_rule: Literal["explicit", "min_max", "quantiles"] = Field(
        "explicit", description="`window` as it stands, or found from the gaps."
    )
    window_margin: NotNegative = Field(0.0, description="How far the rules widen the window.")
    window_quantiles: tuple[float, float] | None = Field(None, description="Levels for `quantiles`; null: 0.01, 0.99.")
    schedule: Literal["round", "epoch", "step"] = Field("round", description="When the follower answers.")
    recent_pairs: Count | None = Field(None, description="Running window of schedule `step`; null: 1024.")
    solver: Literal["exact", "highs", "slsqp"] = Field("exact", description="The paper used `slsqp`.")
    group_size: Count | None = Field(None, description="The paper's G, 100; null: all pairs at once.")

    @model_validator(mode="after")
    def _radii_are_found_as_they_can_be(self) -> "FollowerConfig":
        if isinstance(self.radius, str) and self.source_radius is not None:
            raise ValueError(f"source_radius is given with radius={self.radius!r}; allowed: one of them")
        if 0 not in self.radius_grid:
            raise ValueError(f"radius_grid is {self.radius_grid}; allowed: radii with 0 (plain DPO) among them")
        return self


class LeaderConfig(Section):
    """The policy's training in a round."""

    beta: Positive = Field(0.1, description="Scale of the implicit reward.")
    learning_rate: Positive = Field(5e-7, description="Peak of the schedule.")
    epochs: Positive = Field(1.0, description="Epochs of every round but round 0.")
    seed_epochs: Positive = Field(3.0, description="Epochs of DPO on the seed pairs (round 0).")
    seed_learning_rate: Positive | None = Field(None, description="Learning rate of round 0; null: learning_rate.")
    batch_size: Count = Field(32, description="Pairs per optimiser step, over all processes.")
    micro_batch_size: Count = Field(4, description="Pairs per forward pass and process.")
    max_length: Count = Field(1024, description="Tokens of prompt and response together.")
    lr_scheduler: str = Field("cosine", description="A scheduler of transformers, by name.")
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of the steps over which the learning rate rises."
    )
    step: Literal["envelope", "transport", "mixture"] = Field(
        "envelope", description="How the leader meets the worst case; PAPER.md D3."
    )
    proximal: NotNegative = Field(0.0, description="Pull towards the displaced gaps, with step `mixture`.")
    accept: Literal["supported", "supported_any_length", "validated", "always"] = Field(
        "supported",
        description="Ship the latest round that validation pairs support, turn rounds down one by one, or ship the "
        "last one; see below.",
    )
    lora: dict[str, Any] | None = Field(
        None, description="Arguments of PEFT's LoraConfig; null trains all weights. Rounds merge the adapter."
    )
    trainer: dict[str, Any] = Field(
        default_factory=dict, description="Any other argument of SGPOConfig, by its own name."
    )

    @model_validator(mode="after")
    def _batches_divide(self) -> "LeaderConfig":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size is {self.batch_size}; allowed: a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        return self


class EvaluateConfig(Section):
    """One evaluation that a run makes after each round, as `sgpo eval` would."""

    kind: Literal["alpaca", "mt_bench", "judge", "reward", "preferences"] = Field(
        description="As `sgpo eval` has them."
    )
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] | None = Field(
        None, description="Names its results and its folder; null: the kind."
    )
    instructions: str | None = Field(None, description="AlpacaEval's instructions, of `alpaca`.")
    questions: str | None = Field(None, description="FastChat's question.jsonl, of `mt_bench`.")
    prompts: str | None = Field(None, description="Prompts of `judge` and `reward`, each once.")
    pairs: str | None = Field(None, description="Held-out human pairs, of `preferences`.")
    baseline: str | None = Field(
        None, description="What `judge` and `reward` compare with: answers or a policy; null: the SFT model."
    )
    model: str | None = Field(None, description="The reward model's folder or Hub id, or the judge's name.")
    function: str | None = Field(None, description="In place of a reward model: as in `annotation`.")
    servers: list[str] = Field(default_factory=list, description="Base URLs of the judge.")
    template: str | None = Field(None, description="File with the judge's prompt; null: one that comes along.")
    logprobs: bool = Field(False, description="Weigh the judge's wins by log-probabilities.")
    certificate: bool = Field(False, description="Certify `preferences` with the round's own pairs (PAPER.md D7).")
    temperature: NotNegative = Field(0.7, description="Of the policy's answers; `mt_bench` has its own.")
    max_new_tokens: Count = Field(1024, description="Of one answer.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of PairwiseJudge and ServerPool, or of RewardModel."
    )

    @property
    def title(self) -> str:
        """What its results are filed under."""
        return self.name or self.kind

    @model_validator(mode="after")
    def _the_kind_has_what_it_needs(self) -> "EvaluateConfig":
        needs = {
            "alpaca": {"instructions"},
            "mt_bench": {"questions"},
            "judge": {"prompts", "model", "servers"},
            "reward": {"prompts"},
            "preferences": {"pairs"},
        }[self.kind]
        may = {
            "alpaca": {"temperature", "max_new_tokens"},
            "mt_bench": {"max_new_tokens"},
            "judge": {"baseline", "template", "logprobs", "options", "temperature", "max_new_tokens"},
            "reward": {"baseline", "model", "function", "options", "temperature", "max_new_tokens"},
            "preferences": {"certificate"},
        }[self.kind]
        for key, field in type(self).model_fields.items():
            value, default = getattr(self, key), field.get_default(call_default_factory=True)
            if key in needs and not value:
                raise ValueError(f"{key} is missing; kind {self.kind!r} needs it")
            if key not in needs | may | {"kind", "name"} and value != default:
                raise ValueError(f"{key} is {value!r} with kind {self.kind!r}, which takes none")
        if self.kind == "reward" and bool(self.model) == bool(self.function):
            raise ValueError("kind 'reward' needs model or function, and one of them")
        if self.function and self.options:
            raise ValueError(f"options is {self.options!r} with a function, which takes none")
        return self


class HardwareConfig(Section):
    """What the run is planned for; it changes nothing but the estimates of `--dry-run`."""

    devices: Count = Field(1, description="Accelerators, over all nodes.")
    memory_gib: Positive = Field(80.0, description="Memory of one.")
    teraflops: Positive = Field(312.0, description="Peak of one in the run's dtype, in 10^12 operations a second.")
    utilisation: Annotated[float, Field(gt=0, le=1)] = Field(0.4, description="Share of it while scoring, training.")
    generation_utilisation: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="Share of it while writing.")


class Recipe(Section):
    """What every run states, wherever its model and data come from."""

    output: str = Field(description="The run directory.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Of everything random; one seed, one result.")
    rounds: Annotated[int, Field(ge=0)] = Field(3, description="Rounds after DPO on the seeds.")
    reference: Literal["sft", "previous"] = Field(
        "sft", description="What the leader refers to: the SFT model, or the policy that the round starts from."
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    generation: GenerationConfig = GenerationConfig()
    annotation: AnnotationConfig = AnnotationConfig()
    follower: FollowerConfig = FollowerConfig()
    leader: LeaderConfig = LeaderConfig()
    evaluate: list[EvaluateConfig] = Field(default_factory=list, description="After each round; see below.")
    hardware: HardwareConfig | None = Field(None, description="For estimates; see below.")

    @model_validator(mode="after")
    def _every_source_has_a_radius(self) -> "Recipe":
        radii = self.follower.source_radius
        sources = ["human", "self"] if self.data.seeds_in_rounds else ["self"]
        if radii is not None and sorted(radii) != sources:
            raise ValueError(
                f"follower.source_radius names {', '.join(sorted(radii)) or 'no source'}; allowed: "
                f"{' and '.join(sources)}, the sources of a round's pairs (data.seeds_in_rounds adds human)"
            )
        return self

    @property
    def judges_rounds(self) -> bool:
        """Whether a round may be turned down."""
        return self.follower.radius == "validated" or self.leader.accept == "validated"

    @property
    def chooses_round(self) -> bool:
        """Whether one of the rounds is chosen at the end."""
        return self.leader.accept in ("supported", "supported_any_length")

    @property
    def validation_share(self) -> float:
        """Share of the seeds' prompts that is set aside: the recipe's, or the default where something needs it."""
        share = self.data.validation_share
        return share if share is not None else VALIDATION_SHARE * self._needs_validation

    @property
    def _needs_validation(self) -> bool:
        return self.judges_rounds or self.chooses_round or self.follower.radius == "measured"

    @model_validator(mode="after")
    def _validation_pairs_are_there_and_used(self) -> "Recipe":
        if self._needs_validation != (self.validation_share > 0):
            raise ValueError(
                f"data.validation_share is {self.data.validation_share} with "
                f"follower.radius={self.follower.radius!r} and leader.accept={self.leader.accept!r}; allowed: a "
                "share > 0 where one of them needs human pairs, else 0 or null"
            )
        return self

    @model_validator(mode="after")
    def _evaluations_have_names_of_their_own(self) -> "Recipe":
        titles = [evaluation.title for evaluation in self.evaluate]
        if twice := sorted({title for title in titles if titles.count(title) > 1}):
            raise ValueError(f"evaluate has {', '.join(twice)} more than once; allowed: a `name` for each")
        return self

    @model_validator(mode="after")
    def _prompts_cover_the_rounds(self) -> "Recipe":
        per_round = self.data.prompts_per_round
        if isinstance(per_round, list) and len(per_round) != self.rounds:
            raise ValueError(
                f"data.prompts_per_round has {len(per_round)} numbers; allowed: one per round ({self.rounds})"
            )
        if isinstance(self.data.prompts, list) and len(self.data.prompts) != self.rounds:
            raise ValueError(
                f"data.prompts has {len(self.data.prompts)} pools; allowed: one pool, or one per round ({self.rounds})"
            )
        return self


class RunConfig(Recipe):
    """A run of SSAPO on a model and data that the user has."""

    @model_validator(mode="after")
    def _inputs_are_named(self) -> "RunConfig":
        data = self.data
        for value, key in (
            (self.model.path, "model.path"),
            (data.seeds or data.split, "data.seeds"),
            (data.prompts or data.split or self.rounds == 0, "data.prompts"),
        ):
            if not value:
                raise ValueError(f"{key} is missing; allowed: a folder, a file or a Hub id")
        return self

    @model_validator(mode="after")
    def _a_split_supplies_the_data(self) -> "RunConfig":
        data = self.data
        if data.split is None:
            return self
        for key in ("seeds", "seeds_split", "seed_pairs", "prompts", "prompts_split", "prompts_per_round", "heldout"):
            if getattr(data, key) is not None:
                raise ValueError(f"data.{key} is given beside data.split, which supplies it; leave it out")
        if len(data.split.pools) != self.rounds:
            raise ValueError(
                f"data.split.pools has {len(data.split.pools)} sizes; allowed: one per round ({self.rounds})"
            )
        return self


def read_recipe(path: str | Path, overrides: list[str]) -> dict[str, Any]:
    """Reads a YAML recipe and lays dotted overrides (`follower.radius=0.05`) over it.

    Raises:
        InputError: no such file, no YAML mapping, or an override that is not KEY=VALUE or that descends into a value.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); allowed: a YAML file.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; allowed: a mapping of keys to values.")
    for override in overrides:
        _apply_override(content, override)
    return content


def named_sources(content: dict[str, Any]) -> list[str]:
    """The models and datasets that a recipe names, before it is validated."""
    wanted = {"model": ("path", "adapter"), "data": ("seeds", "prompts", "heldout"), "annotation": ("model",)}
    found: list[str] = []
    for section, keys in wanted.items():
        values = content.get(section)
        for key in keys if isinstance(values, dict) else ():
            value = values.get(key)
            found += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
    listed = content.get("evaluate")
    for evaluation in listed if isinstance(listed, list) else ():
        keys = ("instructions", "prompts", "pairs", "baseline") if isinstance(evaluation, dict) else ()
        found += [evaluation[key] for key in keys if isinstance(evaluation.get(key), str)]
        if keys and evaluation.get("kind") == "reward" and isinstance(evaluation.get("model"), str):
            found.append(evaluation["model"])
    split = content.get("data", {}).get("split") if isinstance(content.get("data"), dict) else None
    for source in split.get("sources", ()) if isinstance(split, dict) else ():
        if isinstance(source, dict) and isinstance(source.get("path"), str):
            found.append(source["path"])
    return found


def _apply_override(content: dict[str, Any], override: str) -> None:
    dotted, sign, text = override.partition("=")
    if not sign or not all(dotted.split(".")):
        raise InputError(f"override {override!r}; allowed: KEY=VALUE with a dotted key, such as follower.radius=0.05.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"override {override!r}: the value is not valid YAML.") from error
    *parents, key = dotted.split(".")
    node = content
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise InputError(f"override {override!r}: {parent} holds a {type(node).__name__}, not keys.")
    node[key] = value


_Model = TypeVar("_Model", bound=BaseModel)


def validate(kind: type[_Model], content: dict[str, Any], name: str) -> _Model:
    """Builds a pydantic model, or raises one InputError that lists each wrong key, its value and what is allowed."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError("\n".join(f"{name}: {_sentence(kind, item)}" for item in error.errors())) from error


def _sentence(kind: type[BaseModel], item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"] if not str(part).startswith(("constrained", "list[", "function")))
    if item["type"] == "extra_forbidden":
        return f"unknown key {key}; allowed: {', '.join(_section_at(kind, item['loc'][:-1]).model_fields)}."
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if item["type"] == "value_error":
        return f"{key + ': ' if key else ''}{message}."
    if item["type"] == "missing":
        return f"{key} is missing."
    return f"{key} is {item['input']!r}; allowed: {message}."


def _section_at(kind: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    """The section at a place of a recipe; numbers are places in a list of sections."""
    for part in place:
        if not isinstance(part, int):
            kind = _find_section(kind.model_fields[part].annotation)
    return kind


def _find_section(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation names, whatever it is wrapped in."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _find_section(part)) is not None), None)
