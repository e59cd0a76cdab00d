"""What can be known of a recipe's data and model before a run starts."""

from collections.abc import Callable
from dataclasses import dataclass, field

from datasets import Dataset
from transformers import AutoConfig

from sgpo.config import RunConfig
from sgpo.config.world import PROMPT_TOKENS
from sgpo.demo.sft import VOCABULARY, count_parameters
from sgpo.errors import InputError
from sgpo.policy.chat import inspect_chat, rows_with_ends
from sgpo.policy.generators import load_model
from sgpo.policy.gguf import GGUFFile
from sgpo.policy.load import Policy, load_policy
from sgpo.policy.locate import adapter_base, loading
from sgpo.preferences.layout import describe_counts, prompt_key
from sgpo.preferences.mix import mix_pairs, mix_sources
from sgpo.preferences.source import SUFFIXES, load_pairs, load_prompts
from sgpo.rounds.costs import Architecture
from sgpo.rounds.data import check_fit, drawn_seeds, places, pool_shares, pools, prompt_lengths
from sgpo.store.files import name_row
from sgpo.store.hub import is_hub_id


@dataclass
class Inputs:
    """What a run starts from: human pairs, prompts of each round and the model; None or 0 is unknown.

    Tokens are the means of a prompt, and of one with a response of a human pair; `longest` are the most that a round
    meets. `warnings` are what a user should know, `unchecked` what could not be checked and what was assumed instead.
    """

    config: RunConfig
    offline: bool
    human: int = 0
    heldout: int = 0
    pools: list[int] = field(default_factory=list)
    prompt_tokens: float | None = None
    human_tokens: float | None = None
    longest: int = 0
    parameters: int = 0
    policy: Policy | None = None
    architecture: Architecture | None = None
    warnings: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def read_world(self) -> None:
        world, rounds = self.config.world, range(1, self.config.rounds + 1)
        self.human, self.heldout = world.seed_pairs, world.heldout_pairs
        self.pools = pool_shares(self.config, world.pool_prompts, rounds, "world.pool_prompts")
        self.parameters = count_parameters(layers=world.layers, hidden=world.hidden, heads=world.heads)
        self.architecture = Architecture(world.layers, world.hidden, VOCABULARY, 2 * world.hidden, world.hidden)
        self.prompt_tokens = float(PROMPT_TOKENS)

    def read_model(self) -> None:
        model = self.config.model
        try:
            self.policy = policy = load_model(model, "meta")
        except InputError as error:
            if self._must_exist(model.path):
                raise
            if model.parameters is None:
                raise InputError(f"{error} To plan without the Hub, state model.parameters.") from error
            self.unchecked.append(f"{model.path} (the Hub does not answer; the recipe says {model.parameters:,})")
            self.parameters = model.parameters
            return
        if model.gguf_file is not None:
            self.warnings.append(GGUFFile(model.path, model.gguf_file, model.dtype).describe())
        text = policy.model.config.get_text_config()
        hidden, heads = text.hidden_size, text.num_attention_heads
        inner = getattr(text, "intermediate_size", None) or 4 * hidden
        keys = getattr(text, "num_key_value_heads", heads) * (getattr(text, "head_dim", None) or hidden // heads)
        self.architecture = Architecture(text.num_hidden_layers, hidden, text.vocab_size, inner, keys)
        self.parameters = sum(parameter.numel() for parameter in policy.model.parameters())
        self.warnings += inspect_chat(policy, stop=self.config.generation.stop, generates=self.config.rounds > 0)

    def read_rankers(self) -> None:
        """The configs of reward models and pair rankers; a judge's model is a name on its servers."""
        named = [(f"evaluate, {one.title}: reward model", one) for one in self.config.evaluate]
        for what, settings in [("annotation.model:", self.config.annotation), *named]:
            if settings.model is None or settings.servers:
                continue
            try:
                if getattr(settings, "annotator", None) == "heads":
                    load_policy(settings.model, device="meta")
                name = adapter_base(settings.model, what) or settings.model
                with loading(what, name):
                    trust = settings.options.get("trust_remote_code", False)
                    AutoConfig.from_pretrained(name, trust_remote_code=trust)
            except InputError:
                if self._must_exist(settings.model):
                    raise
                self.unchecked.append(f"{settings.model} (the Hub does not answer)")

    def read_split(self) -> None:
        split = self.config.data.split
        self.human, self.heldout, self.pools = split.seeds, split.heldout, list(split.pools)
        try:
            mixture = mix_sources(split, seed=self.config.seed)
        except InputError:
            here = [source for source in split.sources if self._must_exist(source.path)]
            if len(here) == len(split.sources):
                raise
            for source in here:
                mix_pairs([source], max_prompt_chars=split.max_prompt_chars)
            paths = ", ".join(source.path for source in split.sources if source not in here)
            self.unchecked.append(f"{paths} (the Hub does not answer; the recipe says how many pairs)")
            return
        for use in mixture.uses:
            if use.dropped:
                dropped = describe_counts(use.dropped)
                self.warnings.append(f"{use.path}: of {use.rows:,} rows are left out: {dropped}.")

    def read_pairs(self) -> None:
        data, wanted = self.config.data, self.config.data.seed_pairs
        seeds = self._read(load_pairs, data.seeds, data.seeds_split, wanted, "data.seed_pairs")
        if seeds is not None:
            self._inspect_pairs(drawn_seeds(self.config, seeds), data.seeds)
        self.human = wanted or len(seeds)
        if not data.heldout:
            return
        heldout = self._read(load_pairs, data.heldout, data.heldout_split, 0, "data.heldout")
        if heldout is None:
            return
        self.heldout = len(heldout)
        self._inspect_pairs(heldout, data.heldout)
        if seeds is not None and (shared := _distinct(seeds) & _distinct(heldout)):
            self.warnings.append(
                f"{len(shared)} prompts of data.heldout are also among the seeds; held-out accuracy will be too high."
            )

    def _inspect_pairs(self, pairs: Dataset, path: str) -> None:
        """Refuses pairs that could not be scored; notes those that hold an end token as text."""
        if self.policy is None:
            return
        lengths = check_fit(self.config, self.policy, pairs, path)
        # The seeds come first.
        if self.human_tokens is None:
            self.human_tokens, self.longest = float(lengths.mean()), int(lengths.max())
        if rows := list(rows_with_ends(self.policy, pairs)):
            self.warnings.append(
                f"{len(rows)} of {len(pairs)} pairs hold the end token as text (the first: "
                f"{places(pairs, path)(rows[0])}): the template adds it, so responses that end in it would end twice."
            )

    def read_pools(self) -> None:
        sizes = self.config.data.prompts_per_round
        for path, rounds in pools(self.config) if self.config.rounds else ():
            shares = sizes if isinstance(sizes, list) else [sizes] * self.config.rounds
            assumed = sizes and sum(shares[number - 1] for number in rounds)
            available = self._read_pool(path, assumed)
            self.pools += pool_shares(self.config, available, rounds, f"data.prompts: {path}")

    def _read_pool(self, path: str, assumed: int | None) -> int:
        """The number of prompts in a pool; notes repeated and long ones."""
        pool = self._read(load_prompts, path, self.config.data.prompts_split, assumed, "data.prompts_per_round")
        if pool is None:
            return assumed
        if repeated := len(pool) - len(_distinct(pool)):
            self.warnings.append(f"{path} repeats {repeated} of its {len(pool)} prompts.")
        if self.policy is not None:
            lengths, room = prompt_lengths(self.config, self.policy, pool, path)
            self.prompt_tokens = float(lengths.mean())
            longest = lengths[lengths <= room].max(initial=0) + self.config.generation.max_new_tokens
            self.longest = max(self.longest, int(longest))
            if len(long := (lengths > room).nonzero()[0]):
                self.warnings.append(
                    f"{path}: {len(long)} of {len(pool)} prompts have more than {room} tokens (the first: "
                    f"{name_row(path, long[0])}, {lengths[long[0]]} tokens). Rounds drop and count them: a response "
                    "must fit in the model's context, and some of it below leader.max_length."
                )
        return len(pool)

    def _read(
        self, load: Callable[..., Dataset], path: str, split: str | None, assumed: int | None, key: str
    ) -> Dataset | None:
        """A dataset; None if the Hub does not answer and the recipe states its size, the value `assumed` of `key`."""
        try:
            return load(path, split=split)
        except InputError as error:
            if self._must_exist(path):
                raise
            if assumed is None:
                raise InputError(f"{error} To plan without the Hub, state {key}.") from error
        self.longest = self.config.leader.max_length
        size = f"; the recipe says {assumed}" if assumed else ""
        self.unchecked.append(f"{path} (the Hub does not answer{size})")
        return None

    def _must_exist(self, path: str) -> bool:
        """Whether an error is about a file or folder, or the Hub answers; the Hub must not excuse it then."""
        return not self.offline or not is_hub_id(path) or path.endswith(SUFFIXES)


def inspect_inputs(config: RunConfig, *, offline: bool) -> Inputs:
    """Reads the data and the model's config; InputError for whatever would stop the run later.

    If the Hub is out of reach (`offline`), what it alone has is taken from the recipe and listed in `unchecked`.
    """
    inputs = Inputs(config, offline)
    if config.world is not None:
        inputs.read_world()
    else:
        inputs.read_model()
        if config.data.split is not None:
            inputs.read_split()
        else:
            inputs.read_pairs()
            inputs.read_pools()
    inputs.read_rankers()
    return inputs


def _distinct(rows: Dataset) -> set[bytes]:
    """The keys of a dataset's distinct prompts."""
    return set(map(prompt_key, rows["prompt"]))
