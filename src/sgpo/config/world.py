"""Settings of an embedded world: the `world` section of a recipe."""

from typing import Annotated

from pydantic import Field

from sgpo.config import Count, Positive, Section

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class WorldSettings(Section):
    """The embedded world and its SFT model."""

    facts: Share = Field(0.0, description="How much of the gold reward is facts of the request; see `ShopWorld`.")
    flip_rate: Share = Field(0.05, description="Share of the annotator's labels that are turned round.")
    seed_pairs: Count = Field(400, description="Labelled pairs.")
    pool_prompts: Count = Field(1500, description="Prompts without labels, for all rounds together.")
    test_prompts: Count = Field(400, description="Prompts that the policy is judged on.")
    test_responses: Count = Field(2, description="Responses to each of them, of the policy and of the SFT model.")
    sft_examples: Count = Field(9600, description="Rows of the SFT corpus, seen once.")
    sft_learning_rate: Positive = 5e-3
    sft_batch_size: Count = 16
    layers: Count = Field(2, description="Layers of the Llama.")
    hidden: Count = Field(128, description="Its width; a multiple of twice the heads.")
    heads: Count = 4
    max_length: Count = Field(160, description="Its context, in tokens.")
