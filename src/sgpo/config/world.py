"""The embedded world: what the demo's model and data are made of."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from sgpo.config.section import Count, Positive, Section, key

# The evaluation that a world adds: by its reward, against the SFT model.
WORLD_EVALUATION = "gold"
# Room for a prompt of the world with its template; the tokenizer of a hundred SFT rows or more needs at most 39.
PROMPT_TOKENS = 40
# The keys that a world supplies; a recipe that has one leaves them out.
SUPPLIED = {
    "model": ("path", "gguf_file", "adapter", "parameters"),
    "data": ("seeds", "seeds_split", "seed_pairs", "prompts", "prompts_split", "heldout", "heldout_split", "split"),
}

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class WorldConfig(Section):
    """An embedded world with a known reward, and the small SFT model that is trained on it."""

    facts: Share = key(0.0, "How much of the reward is facts of the request; see `ShopWorld`.")
    scale: Positive = key(1.0, "What the reward is multiplied by; see `ShopWorld`.")
    distractor: bool = key(True, "Whether a request lists a second article; see `ShopWorld`.")
    flip_rate: Share = key(0.05, "Share of flipped labels.")
    seed_pairs: Count = key(400, "Labelled pairs.")
    heldout_pairs: Count = key(200, "Labelled pairs to report accuracy on; never trained on.")
    pool_prompts: Count = key(1500, "Prompts without labels, for all rounds together.")
    test_prompts: Count = key(800, "Prompts of the evaluation by the reward; one answer each.")
    sft_examples: Count = key(9600, "Rows of the SFT corpus, seen once.")
    sft_learning_rate: Positive = key(5e-3, "Peak of the SFT's schedule.")
    sft_batch_size: Count = key(16, "Rows per step of the SFT.")
    layers: Count = key(2, "Layers of the Llama.")
    hidden: Count = key(128, "Its width; a multiple of twice the heads.")
    heads: Count = key(4, "Its attention heads.")
    max_length: Annotated[int, Field(ge=2 * PROMPT_TOKENS)] = key(160, "Its context, in tokens.")

    @model_validator(mode="before")
    @classmethod
    def _one_answer_per_test_prompt(cls, content: Any) -> Any:
        if isinstance(content, dict) and "test_responses" in content:
            raise ValueError(
                f"test_responses is {content['test_responses']!r}, and every test prompt now gets one answer; allowed: "
                "world.test_prompts alone (800 prompts, one answer each, say as much as 400 with two)"
            )
        return content
