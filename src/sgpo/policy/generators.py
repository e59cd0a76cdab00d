"""The policy and the generation backend that a recipe names."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from sgpo.config import GenerationConfig, ModelConfig
from sgpo.errors import InputError
from sgpo.policy.generate import TransformersGenerator
from sgpo.policy.load import Policy, load_policy, load_tokenizer
from sgpo.policy.sampling import Generator, Sampling
from sgpo.store.processes import Processes


def load_model(model: ModelConfig) -> Policy:
    """Loads the policy that a section `model` names; see `load_policy`."""
    return load_policy(model.path, dtype=model.dtype, adapter=model.adapter, trust_remote_code=model.trust_remote_code)


def sampling_of(settings: GenerationConfig) -> Sampling:
    """How a section `generation` samples."""
    return Sampling(
        n=settings.candidates,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_new_tokens=settings.max_new_tokens,
        stop=tuple(settings.stop),
    )


@contextmanager
def open_generator(
    settings: GenerationConfig, model: ModelConfig, *, processes: Processes | None = None, log: Path | None = None
) -> Iterator[Generator]:
    """Opens the backend for a policy, and closes it and its servers at the end of the block.

    Args:
        settings: names the backend.
        model: the policy; only the backend `transformers` loads an adapter.
        processes: share the backend: a server is started once for all of them. None: this process alone.
        log: file for the output of a server or subprocess; None keeps it only as long as that runs.

    Raises:
        InputError: a backend that is not installed, does not start, or does not answer.
    """
    if settings.backend == "transformers":
        yield TransformersGenerator(load_model(model), batch_size=settings.batch_size)
    elif settings.backend == "vllm":
        from sgpo.policy.vllm import VLLMGenerator

        tokenizer = load_tokenizer(model.path, trust_remote_code=model.trust_remote_code)
        options = {"dtype": model.dtype, "trust_remote_code": model.trust_remote_code, "log": log}
        try:
            backend = VLLMGenerator(model.path, tokenizer, **{**options, **settings.vllm})
        except TypeError as error:
            raise InputError(f"generation.vllm: {error}; allowed: arguments of VLLMGenerator.") from error
        with backend as generator:
            yield generator
    else:
        with _open_servers(settings, model, processes, log) as generator:
            yield generator


@contextmanager
def _open_servers(
    settings: GenerationConfig, model: ModelConfig, processes: Processes | None, log: Path | None
) -> Iterator[Generator]:
    from sgpo.policy.served import ServedGenerator
    from sgpo.serving.client import ServerPool

    tokenizer = load_tokenizer(model.path, trust_remote_code=model.trust_remote_code)
    try:
        pool = ServerPool(settings.servers, **settings.server_options)
    except TypeError as error:
        raise InputError(f"generation.server_options: {error}; allowed: arguments of ServerPool.") from error
    with ExitStack() as stack:
        if settings.server_command and (processes is None or processes.is_main):
            for index, url in enumerate(settings.servers):
                own_log = None if log is None else log.with_suffix(f".{index}.log")
                _launch(stack, settings.server_command, url, model.path, own_log)
        # No process may ask before the servers are up, and they must run until every process has its answers.
        if processes is not None:
            processes.wait()
        yield ServedGenerator(pool, model.path, tokenizer, dialect=settings.server_dialect)
        if processes is not None:
            processes.wait()


def _launch(stack: ExitStack, command: str, url: str, path: str, log: Path | None) -> None:
    from sgpo.serving.launch import fill_command, launched_server

    address = urlsplit(url)
    try:
        port = address.port or 80
    except ValueError as error:
        raise InputError(f"generation.servers: {url!r}: {error}; allowed: a URL with a port.") from error
    filled = fill_command(command, policy=path, host=address.hostname, port=port)
    stack.enter_context(launched_server(filled, [url], log=log))
