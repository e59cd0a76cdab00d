"""The generation backend that a recipe names."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from sgpo.config import Recipe
from sgpo.errors import InputError
from sgpo.policy.generate import TransformersGenerator
from sgpo.policy.load import Policy, load_tokenizer
from sgpo.policy.sampling import Generator, Sampling
from sgpo.store.processes import Processes


def sampling_of(config: Recipe) -> Sampling:
    """How a recipe samples."""
    settings = config.generation
    return Sampling(
        n=settings.candidates,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_new_tokens=settings.max_new_tokens,
        stop=tuple(settings.stop),
    )


@contextmanager
def open_generator(
    config: Recipe, path: str | Path, load: Callable[[], Policy], processes: Processes, log: Path
) -> Iterator[Generator]:
    """Opens the backend for a policy; what it holds, servers included, is let go on leaving.

    Args:
        config: the recipe; its section `generation` names the backend.
        path: folder of the policy.
        load: loads the policy, for generation in process.
        processes: those of the run; a server is started once, for all of them.
        log: where the output of a server or subprocess goes.

    Raises:
        InputError: a backend that is not installed, does not start, or does not answer.
    """
    settings = config.generation
    if settings.backend == "transformers":
        yield TransformersGenerator(load(), batch_size=settings.batch_size)
    elif settings.backend == "vllm":
        from sgpo.policy.vllm import VLLMGenerator

        tokenizer = load_tokenizer(path, trust_remote_code=config.model.trust_remote_code)
        options = {"dtype": config.model.dtype, "trust_remote_code": config.model.trust_remote_code, "log": log}
        try:
            backend = VLLMGenerator(path, tokenizer, **{**options, **settings.vllm})
        except TypeError as error:
            raise InputError(f"generation.vllm: {error}; allowed: arguments of VLLMGenerator.") from error
        with backend as generator:
            yield generator
    else:
        with _open_servers(config, path, processes, log) as generator:
            yield generator


@contextmanager
def _open_servers(config: Recipe, path: str | Path, processes: Processes, log: Path) -> Iterator[Generator]:
    from sgpo.policy.served import ServedGenerator
    from sgpo.serving.client import ServerPool

    settings = config.generation
    tokenizer = load_tokenizer(path, trust_remote_code=config.model.trust_remote_code)
    try:
        pool = ServerPool(settings.servers, **settings.server_options)
    except TypeError as error:
        raise InputError(f"generation.server_options: {error}; allowed: arguments of ServerPool.") from error
    with ExitStack() as stack:
        if settings.server_command and processes.is_main:
            _launch(stack, settings.server_command, settings.servers, path, log)
        # The others must not ask before the servers are up, nor may the servers go before the others have asked.
        processes.wait()
        yield ServedGenerator(pool, str(path), tokenizer, dialect=settings.server_dialect)
        processes.wait()


def _launch(stack: ExitStack, command: str, urls: list[str], path: str | Path, log: Path) -> None:
    from sgpo.serving.launch import fill_command, launched_server

    for index, url in enumerate(urls):
        address = urlsplit(url)
        try:
            port = address.port or 80
        except ValueError as error:
            raise InputError(f"generation.servers: {url!r}: {error}; allowed: a URL with a port.") from error
        filled = fill_command(command, policy=path, host=address.hostname, port=port)
        stack.enter_context(launched_server(filled, [url], log=log.with_suffix(f".{index}.log")))
