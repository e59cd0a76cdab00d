"""The model that a run starts from."""

from pathlib import Path

from pydantic import Field

from sgpo.choices import Dtype
from sgpo.config.section import Count, Section


class ModelConfig(Section):
    """The SFT model, the start and the reference of the run."""

    path: str | None = Field(None, description="Folder or Hub id of the SFT model.")
    adapter: str | None = Field(None, description="PEFT adapter to merge into the model.")
    dtype: Dtype = Field(
        "float32", description="Of the weights of policy and reference; bfloat16 and float16 also train in it."
    )
    trust_remote_code: bool = Field(False, description="Run model code that comes with a Hub repository.")
    parameters: Count | None = Field(None, description="Number of its weights, for plans without the Hub.")

    def at(self, path: str | Path) -> "ModelConfig":
        """The same settings for the policy in another folder, without the adapter."""
        return self.model_copy(update={"path": str(path), "adapter": None})
