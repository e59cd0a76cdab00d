r"""The log-linear world: random features, a gold reward, and few human pairs.

A response has d features. The first `signal` of them carry its quality, the others its style. Style changes gold only
through a penalty on responses far from the SFT policy's usual ones:

    gold(x, y) = quality * <g, phi_signal> / |g|  -  penalty * |phi_loud|^2  (+ length, see `spurious`)

Loud features (length, layout, register) differ much between responses to one prompt, quiet features little.
Self-annotation learns the direction in which the policy's own responses differ most: for Gaussian differences D the
mean of sign(D.w) D over pairs is proportional to Sigma w, a step of power iteration on their covariance Sigma. The
regimes differ in whether that helps:

    benign: the loud features are quality. A few seeds show it weakly, among many quiet features that are noise;
        self-annotation amplifies the signal and damps the noise.
    derailing: the loud features are style. A linear implicit reward cannot express the penalty; noise in the seeds
        gives each loud feature a slope of random sign, and self-annotation amplifies it.
    spurious: one loud feature, length, correlates with quality on the seeds' prompts and against it on the pools' and
        test prompts. Human pairs, held out or not, cannot tell the two apart.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import log_softmax

from sgpo.errors import InputError
from sgpo_research.worlds.arrays import ArrayWorld, Candidates
from sgpo_research.worlds.noise import NO_NOISE, LabelNoise
from sgpo_research.worlds.pairs import draw_pairs
from sgpo_research.worlds.seed_choice import AT_RANDOM, SeedChoice

OFFERED = 4


@dataclass(frozen=True)
class LoglinearSettings:
    """Settings of a log-linear world.

    Attributes:
        signal, loud, quiet: numbers of features of quality, of loud style and of quiet style.
        loudness: standard deviation of a loud feature, relative to a quiet one.
        signal_loudness: standard deviation of a signal feature, relative to a quiet one.
        quality: standard deviation of gold's linear part, in nats.
        penalty: nats per unit of |phi_loud|^2 / loudness^2.
        spurious: nats of gold per standard deviation of the first loud feature, added for the responses of seed prompts
            and subtracted for those of pools and tests.
        label_noise: of the seed, held-out and pool labels.
        candidates: M, responses per prompt.
        seeds, held_out: human pairs, one per prompt.
        pools: prompts of each round.
        test: prompts for evaluation.
        sharpness: standard deviation of the SFT policy's logits.
        beta: scale of the implicit reward.
    """

    signal: int = 2
    loud: int = 2
    quiet: int = 200
    loudness: float = 1.0
    signal_loudness: float = 1.0
    quality: float = 0.7
    penalty: float = 0.05
    spurious: float = 0.0
    label_noise: LabelNoise = NO_NOISE
    candidates: int = 8
    seeds: int = 100
    held_out: int = 200
    pools: tuple[int, ...] = (1200, 3000, 4500)
    test: int = 400
    sharpness: float = 0.5
    beta: float = 0.1


REGIMES: dict[str, LoglinearSettings] = {
    "benign": LoglinearSettings(signal_loudness=6.0),
    "derailing": LoglinearSettings(quiet=60, loudness=24.0, quality=0.4, penalty=0.5),
    "spurious": LoglinearSettings(loud=1, loudness=6.0, penalty=0.0, spurious=0.7),
}


def settings_of(regime: str, noise: LabelNoise = NO_NOISE, *, quick: bool = False) -> LoglinearSettings:
    """The settings of a regime with a noise; `quick` has a fifth of the pools and half of the test prompts.

    Raises:
        InputError: no such regime.
    """
    if regime not in REGIMES:
        raise InputError(f"regime is {regime!r}; allowed: {', '.join(map(repr, REGIMES))}.")
    settings = replace(REGIMES[regime], label_noise=noise)
    if quick:
        pools = tuple(count // 5 for count in settings.pools)
        settings = replace(settings, pools=pools, test=settings.test // 2)
    return settings


def loglinear_world(settings: LoglinearSettings, seed: int, *, choice: SeedChoice = AT_RANDOM) -> ArrayWorld:
    """Draws a world: the gold reward, prompts, candidates and labels.

    Seeds are chosen among four times as many prompts; the others are not used.
    """
    # One stream per part, so that worlds of one seed that differ in one setting share everything else.
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(8)]
    direction = streams[0].normal(size=settings.signal)
    direction *= settings.quality / np.linalg.norm(direction)

    def draw(count: int, rng: np.random.Generator, spurious: float) -> Candidates:
        return _draw_candidates(settings, count, rng, direction, spurious)

    held_out = draw(settings.held_out, streams[1], settings.spurious)
    offered = draw(OFFERED * settings.seeds, streams[6], settings.spurious)
    seeds = offered.take(choice.pick(offered.embedding, settings.seeds))
    pools = tuple(draw(count, streams[3], -settings.spurious) for count in settings.pools)
    return ArrayWorld(
        seeds=draw_pairs(seeds, settings.label_noise, streams[2]),
        held_out=draw_pairs(held_out, settings.label_noise, streams[7]),
        labelled=draw_pairs(Candidates.concatenate(pools), settings.label_noise, streams[5]),
        pools=pools,
        test=draw(settings.test, streams[4], -settings.spurious),
        beta=settings.beta,
    )


def _draw_candidates(
    settings: LoglinearSettings, count: int, rng: np.random.Generator, direction: np.ndarray, spurious: float
) -> Candidates:
    shape = (count, settings.candidates)
    dimensions = settings.signal + settings.loud + settings.quiet
    features = rng.normal(size=(*shape, dimensions))
    loud = features[..., settings.signal : settings.signal + settings.loud]
    gold = features[..., : settings.signal] @ direction - settings.penalty * (loud**2).sum(-1)
    if settings.loud:
        gold = gold + spurious * loud[..., 0]
    log_ref = log_softmax(settings.sharpness * rng.normal(size=shape), axis=1)
    length = loud[..., 0].copy() if settings.loud else features[..., -1].copy()
    loud *= settings.loudness
    features[..., : settings.signal] *= settings.signal_loudness
    return Candidates(features.astype(np.float32), log_ref, gold, length, features.mean(axis=1))
