"""Arguments of the trainer: TRL's DPO arguments, and those of the pair losses."""

import dataclasses
from typing import Annotated, get_type_hints

from pydantic import Field, create_model
from trl import DPOConfig

from sgpo.config.section import NotNegative, Section, setting, validate
from sgpo.errors import InputError
from sgpo.leader.pair_losses import PAIR_LOSSES, check_loss

# The losses of TRL 1.16 that use label_smoothing; all others ignore it without a warning.
_SMOOTHED_LOSSES = ("robust", "exo_pair", "aot", "aot_unpaired")


@dataclasses.dataclass
class SGPOConfig(*(loss.Settings for loss in PAIR_LOSSES), DPOConfig):
    r"""Configuration of `SGPOTrainer`: every argument of TRL's `DPOConfig`, and those of the losses that it adds.

    The help of each field describes it (`sgpo train --help`, docs/leader.md); see `sgpo.config.game.FollowerSettings`
    for the follower, `sgpo.leader.confidence` and `sgpo.leader.dr_dpo` for losses against noisy labels.

    Raises:
        InputError: an argument out of range, one that would be ignored, or two that do not combine.
    """

    _VALID_DICT_FIELDS = DPOConfig._VALID_DICT_FIELDS + ["source_radius"]  # noqa: RUF005 -- as TRL extends it

    reference_fingerprint: str | None = setting(
        None, "Reference policy that stored reference log-probabilities must come from; by default they are trusted."
    )
    guards: bool = setting(
        True, "Warn of collapse and of an idle or saturated follower; stop at a loss that is not finite."
    )

    def __post_init__(self) -> None:
        # TRL sets its default by a name that transformers has deprecated; a user's own use of that name still warns.
        if self.activation_checkpointing is None and self.gradient_checkpointing:
            self.activation_checkpointing = True
        try:
            super().__post_init__()
        except ValueError as error:
            # transformers names a wrong value of an enumeration, and not the argument.
            wrong = [name for name, value in vars(self).items() if str(error).startswith(f"{value} is not a valid ")]
            raise InputError(f"{wrong[0]}: {error}" if wrong else str(error)) from error
        given = {name: getattr(self, name) for name in _RANGES.model_fields}
        for name, value in validate(_RANGES, given, "SGPOConfig"):
            setattr(self, name, value)
        _check_trls_own(self)
        check_loss(self)


def _ranges() -> type[Section]:
    """The types and bounds of our arguments."""
    hints = get_type_hints(SGPOConfig, include_extras=True)
    ours = [field.name for field in dataclasses.fields(SGPOConfig) if field.name not in DPOConfig.__dataclass_fields__]
    # A string is JSON, which TrainingArguments has parsed by then.
    hints["source_radius"] = Annotated[dict[str, NotNegative], Field(min_length=1), "sources with radii >= 0"] | None
    return create_model("SGPOConfig", __base__=Section, **{name: (hints[name], ...) for name in ours})


_RANGES = _ranges()


def _check_trls_own(args: SGPOConfig) -> None:
    """Refuses TRL's arguments where TRL would ignore them."""
    eta = args.label_smoothing
    if eta and ("sigmoid" in args.loss_type or not set(args.loss_type) & set(_SMOOTHED_LOSSES)):
        raise InputError(
            f"label_smoothing is {eta} with loss_type {args.loss_type}; allowed: 0, because TRL's loss ignores it. For "
            f"rDPO use loss_type 'robust' with label_smoothing {eta}; for cDPO use loss_type 'sigmoid' with "
            f"confidence_smoothing={eta}, confidence_quantile=1, confidence_warmup=0 and radius=0."
        )
    if args.padding_free:
        raise InputError(
            "padding_free is True; allowed: False, because TRL 1.16 has disabled it and would pad with a mere warning."
        )
