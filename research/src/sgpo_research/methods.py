"""The methods that the study compares: each is a recipe of the same loop, with at most one tuned parameter."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_origin, get_type_hints

from sgpo.choices import Reference, Space, Step, check_choice
from sgpo.errors import InputError

OWN = "OWN"


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: as in tables.
        recipe: the keys of a recipe that make the real loop this method, dotted; `OWN` stands for its tuned parameter.
        labels: "seeds", or "all": also human labels for the prompts of the pools, and no rounds.
        annotator: of a round's responses: "implicit" (the policy), "reward_model" (fitted on the seeds), or None: no
            rounds.
        loss: of the leader. Losses against label noise are used on the seeds as well, the robust one in rounds only.
        own: what the tuned parameter is, or None; own_values: its grid, whose size divides the number of trials.
        space, window, tangents, step: of the follower and the leader's step. Gaps are clipped to the window.
        radius: "own" (the tuned parameter), a number, "measured" (times the tuned parameter), or "validated" (chosen
            each round from `radii`; the round is rejected if none is accepted).
        radii: grid of the validated radius.
        seeds_in_rounds: human seeds are trained on in every round, with plain DPO's loss.
        reference: of the leader's loss; the implicit reward always refers to the SFT policy.
        accept: which policies are kept: "all"; "paying": a stage, that of the seeds included, is kept only where
            `sgpo.stats.acceptance.accept_round` accepts it, and the next stage starts from what was kept; "supported":
            at the end, by `sgpo.stats.acceptance.latest_supported` with length as a control, or
            "supported_any_length": without.
        human_last: the shipped policy gets a final DPO on all human pairs, held-out ones included; not where the SFT
            policy is shipped. Held-out pairs choose nothing after that.
    """

    name: str
    recipe: Mapping[str, Any]
    labels: Literal["seeds", "all"] = "seeds"
    annotator: Literal[None, "implicit", "reward_model"] = "implicit"
    loss: Literal["dpo", "cdpo", "rdpo", "ipo", "dr_dpo", "spa", "robust"] = "dpo"
    own: str | None = None
    own_values: tuple[float, ...] = ()
    space: Space = "probability"
    window: tuple[float, float] = (0.0, 1.0)
    tangents: int | None = 6
    step: Step = "envelope"
    radius: float | str = 0.0
    radii: tuple[float, ...] = ()
    seeds_in_rounds: bool = False
    reference: Reference = "sft"
    accept: Literal["all", "paying", "supported", "supported_any_length"] = "all"
    human_last: bool = False

    def __post_init__(self) -> None:
        for field, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal:
                check_choice(field, getattr(self, field), kind)
        if bool(self.own) != bool(self.own_values):
            raise InputError(f"own is {self.own!r} with own_values {self.own_values}; allowed: both or neither.")


_ALL_ROUNDS = {"leader.accept": "always"}
# A choice among rounds is followed by a final DPO on all human pairs, unless the recipe says otherwise.
_NOT_LAST = {"leader.final_epochs": 0}
_DPO = {"follower.radius": 0, **_ALL_ROUNDS}
_PAPER = {
    "follower.radius": 0.01, "follower.space": "probability", "follower.tangents": 6, "leader.step": "envelope",
    **_ALL_ROUNDS,
}  # fmt: skip
_MARGIN = {"space": "margin", "window": (-2.0, 10.0), "tangents": None}
_MARGIN_KEYS = {"follower.space": "margin", "follower.window": [-2, 10], "follower.tangents": None}
# Two thirds of the log-linear world's labels are held out: all methods are tuned on them, these use them in the run.
_HELD = {"data.validation_share": 0.67}
RADII = (0.0, 0.01, 0.05, 0.2)


def _ssapo(space: str, step: str) -> Method:
    """SSAPO with a tuned radius."""
    keys = {**_ALL_ROUNDS, "follower.radius": OWN, "leader.step": step}
    if space == "margin":
        return Method(
            f"SSAPO margin {step}", {**_MARGIN_KEYS, **keys}, loss="robust", step=step, radius="own", own="radius",
            own_values=(0.1, 0.5), **_MARGIN,
        )  # fmt: skip
    return Method(
        f"SSAPO probability {step}", {**_PAPER, **keys}, loss="robust", step=step, radius="own", own="radius",
        own_values=(0.05, 0.2),
    )  # fmt: skip


def _human_last(method: Method) -> tuple[Method, Method]:
    """A method without and with a final DPO on all human pairs."""
    plain = {**method.recipe, **_NOT_LAST}
    last = {**method.recipe, **_HELD, "leader.final_epochs": 3}
    return replace(method, recipe=plain), replace(
        method, name=f"{method.name}, human last", recipe=last, human_last=True
    )


_ALL = (
    *_human_last(Method("DPO on seeds", {"rounds": 0, **_ALL_ROUNDS}, annotator=None)),
    Method(
        "DPO on all labels", {"rounds": 0, "data.seeds": "all labelled pairs", **_ALL_ROUNDS}, annotator=None,
        labels="all",
    ),
    *_human_last(Method("iterative DPO", _DPO)),
    Method(
        "iterative DPO, reward model", {**_DPO, "annotation.annotator": "reward_model"}, annotator="reward_model",
        own="penalty of the reward model", own_values=(0.003, 0.1),
    ),
    # De-coupled detection multiplies every margin of a log-linear policy by lambda, so it smooths the same pairs.
    Method(
        "SPA", {**_DPO, "reference": "previous", "leader.trainer.confidence_smoothing": OWN}, loss="spa",
        reference="previous", own="confidence_smoothing", own_values=(0.1, 0.3),
    ),
    Method("SPA, no noise handling", {**_DPO, "reference": "previous"}, reference="previous"),
    Method(
        "cDPO",
        {
            **_DPO, "leader.trainer.confidence_smoothing": OWN, "leader.trainer.confidence_quantile": 1.0,
            "leader.trainer.confidence_warmup": 0.0,
        },
        loss="cdpo", own="confidence_smoothing", own_values=(0.1, 0.3),
    ),
    Method(
        "rDPO", {**_DPO, "leader.trainer.loss_type": "robust", "leader.trainer.label_smoothing": OWN}, loss="rdpo",
        own="label_smoothing", own_values=(0.1, 0.3),
    ),
    Method(
        "Dr. DPO", {**_DPO, "leader.trainer.dr_dpo_beta": OWN}, loss="dr_dpo", own="dr_dpo_beta", own_values=(0.5, 2.0),
    ),
    Method(
        "IPO", {**_DPO, "leader.trainer.loss_type": "ipo", "leader.beta": OWN}, loss="ipo", own="tau",
        own_values=(0.03, 0.2),
    ),
    Method("SSAPO, paper", _PAPER, loss="robust", radius=0.01),
    *(_ssapo(space, step) for space in ("probability", "margin") for step in ("envelope", "transport", "mixture")),
    Method(
        "SSAPO, seeds mixed in",
        {**_PAPER, "data.seeds_in_rounds": True, "follower.source_radius": {"human": 0, "self": OWN}}, loss="robust",
        radius="own", own="radius", own_values=(0.01, 0.1), seeds_in_rounds=True,
    ),
    Method(
        "SSAPO, measured", {**_PAPER, **_HELD, "follower.radius": "measured", "follower.radius_factor": OWN},
        loss="robust", radius="measured", own="radius_factor", own_values=(0.5, 1.0),
    ),
    Method(
        "SSAPO, validated", {
            **_PAPER, **_HELD, "follower.radius": "validated", "follower.radius_grid": list(RADII),
            "leader.accept": "validated",
        },
        loss="robust", radius="validated", radii=RADII, accept="paying",
    ),
    *_human_last(
        Method(
            "SSAPO, supported", {**_PAPER, **_HELD, "leader.accept": "supported"}, loss="robust", radius=0.01,
            accept="supported",
        )
    ),
    Method(
        "SSAPO, supported at any length",
        {**_PAPER, **_HELD, **_NOT_LAST, "leader.accept": "supported_any_length"}, loss="robust", radius=0.01,
        accept="supported_any_length",
    ),
    *_human_last(
        Method("iterative DPO, supported", {**_DPO, **_HELD, "leader.accept": "supported"}, accept="supported")
    ),
)  # fmt: skip

METHODS: dict[str, Method] = {method.name: method for method in _ALL}
DEFAULT, PAPER, PLAIN = "SSAPO, supported, human last", "SSAPO, paper", "iterative DPO"
# The default without its final DPO.
DECISION = "SSAPO, supported"
# Methods with more labels than the seeds' are not ranked with the others.
MORE_LABELS = ("DPO on all labels",)
