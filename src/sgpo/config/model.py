"""The model that a run starts from."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from sgpo.config.section import Count, Section


class ModelConfig(Section):
    """The SFT model that the run starts from and refers to."""

    path: str | None = Field(None, description="Folder or Hub id of the SFT model.")
    adapter: str | None = Field(None, description="PEFT adapter to merge into the model.")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32", description="Weights of policy and reference alike; bfloat16 and float16 also train in it."
    )
    trust_remote_code: bool = Field(False, description="Run model code that comes with a Hub repository.")
    parameters: Count | None = Field(None, description="Number of its weights, for plans made without the Hub.")

    def at(self, path: str | Path) -> "ModelConfig":
        """The same settings for the policy in another folder, without the adapter."""
        return self.model_copy(update={"path": str(path), "adapter": None})
