"""The embedded world: what the demo's model and data are made of."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from sgpo.config.section import Count, Positive, Section

# The name of the evaluation that a world adds: by its reward, against the SFT model.
WORLD_EVALUATION = "gold"

# The keys that a world supplies; a recipe that has one leaves them out.
SUPPLIED = {
    "model": ("path", "adapter", "parameters"),
    "data": ("seeds", "seeds_split", "seed_pairs", "prompts", "prompts_split", "heldout", "heldout_split", "split"),
}

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class WorldConfig(Section):
    """An embedded world with a known reward, and the small SFT model that is trained on it."""

    facts: Share = Field(0.0, description="How much of the reward is facts of the request; see `ShopWorld`.")
    flip_rate: Share = Field(0.05, description="Share of flipped labels.")
    seed_pairs: Count = Field(400, description="Labelled pairs.")
    heldout_pairs: Count = Field(200, description="Labelled pairs to report accuracy on; never trained on.")
    pool_prompts: Count = Field(1500, description="Prompts without labels, for all rounds together.")
    test_prompts: Count = Field(800, description="Prompts of the evaluation by the reward; one answer each.")
    sft_examples: Count = Field(9600, description="Rows of the SFT corpus, seen once.")
    sft_learning_rate: Positive = Field(5e-3, description="Peak of the SFT's schedule.")
    sft_batch_size: Count = Field(16, description="Rows per step of the SFT.")
    layers: Count = Field(2, description="Layers of the Llama.")
    hidden: Count = Field(128, description="Its width; a multiple of twice the heads.")
    heads: Count = Field(4, description="Its attention heads.")
    max_length: Count = Field(160, description="Its context, in tokens.")

    @model_validator(mode="before")
    @classmethod
    def _one_answer_per_test_prompt(cls, content: Any) -> Any:
        if isinstance(content, dict) and "test_responses" in content:
            raise ValueError(
                f"test_responses is {content['test_responses']!r}, and every test prompt now gets one answer; allowed: "
                "world.test_prompts alone (800 prompts, one answer each, say as much as 400 with two)"
            )
        return content
