"""The hardware that a run is planned for."""

from typing import Annotated

from pydantic import Field

from sgpo.config.section import Count, Positive, Section


class HardwareConfig(Section):
    """The hardware that the run is planned for; it only affects the estimates of `--dry-run`."""

    devices: Count = Field(1, description="Accelerators, over all nodes.")
    memory_gib: Positive = Field(80.0, description="Memory of one, in GiB.")
    teraflops: Positive = Field(312.0, description="Peak of one in the run's dtype, in 10^12 operations a second.")
    utilisation: Annotated[float, Field(gt=0, le=1)] = Field(
        0.4, description="Share of the peak while scoring and training."
    )
    generation_utilisation: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="Share of the peak while generating."
    )
