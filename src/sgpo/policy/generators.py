"""The policy and the generation backend that a recipe names."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from sgpo.config import GenerationConfig, ModelConfig
from sgpo.policy.generate import TransformersGenerator
from sgpo.policy.gguf import GGUFFile
from sgpo.policy.load import Policy, load_policy, load_tokenizer
from sgpo.policy.sampling import Generator, Sampling
from sgpo.policy.served import ServedGenerator
from sgpo.policy.vllm import VLLMGenerator
from sgpo.serving.client import ServerPool
from sgpo.serving.launch import fill_command, launched_server
from sgpo.store.processes import Processes


def load_model(model: ModelConfig, device: str | None = None) -> Policy:
    """Loads the policy that a section `model` names; see `load_policy`. A GGUF file is loaded on "meta" only."""
    if model.gguf_file is not None:
        return GGUFFile(model.path, model.gguf_file, model.dtype).sketch()
    return load_policy(device=device, **model.model_dump(include={"path", "dtype", "adapter", "trust_remote_code"}))


def as_folder(model: ModelConfig) -> ModelConfig:
    """The model itself, or the folder of the cache that its GGUF file is converted into, once."""
    if model.gguf_file is None:
        return model
    return model.at(GGUFFile(model.path, model.gguf_file, model.dtype).cached())


def sampling_of(settings: GenerationConfig) -> Sampling:
    """How a section `generation` samples."""
    fields = settings.model_dump(include={"temperature", "top_p", "max_new_tokens"})
    return Sampling(n=settings.candidates, stop=tuple(settings.stop), **fields)


@contextmanager
def open_generator(
    settings: GenerationConfig, model: ModelConfig, *, processes: Processes | None = None, log: Path | None = None
) -> Iterator[Generator]:
    """Opens the backend for a policy, and closes it and its servers at the end of the block. `processes` share servers,
    started once for all; None: this process alone. Output goes to `log`; only `transformers` loads an adapter."""
    if settings.backend == "transformers":
        yield TransformersGenerator(load_model(model), batch_size=settings.batch_size)
        return
    tokenizer = load_tokenizer(model.path, trust_remote_code=model.trust_remote_code)
    if settings.backend == "vllm":
        with VLLMGenerator(model, tokenizer, settings.vllm, log=log) as generator:
            yield generator
        return
    pool = _open_pool(settings)
    with ExitStack() as stack:
        if processes is None or processes.is_main:
            for index, (url, words) in enumerate(_commands(settings, model.path)):
                own_log = None if log is None else log.with_suffix(f".{index}.log")
                stack.enter_context(launched_server(words, url, log=own_log))
        # No process may ask before the servers are up, and they must run until every process has its answers.
        if processes is not None:
            processes.wait()
        yield ServedGenerator(pool, model.path, tokenizer, dialect=settings.server_dialect)
        if processes is not None:
            processes.wait()


def check_servers(settings: GenerationConfig) -> None:
    """Raises InputError for servers, or a command that starts them, that cannot be."""
    if settings.servers:
        _open_pool(settings)
        list(_commands(settings, "policy"))


def _open_pool(settings: GenerationConfig) -> ServerPool:
    return ServerPool(settings.servers, **settings.server_options.connection(), max_failed=settings.max_failed)


def _commands(settings: GenerationConfig, policy: str) -> Iterator[tuple[str, list[str]]]:
    """The base URL of each server that the recipe starts, and the words of its command."""
    for url in settings.servers if settings.server_command else ():
        address = urlsplit(url)
        yield url, fill_command(settings.server_command, policy=policy, host=address.hostname, port=address.port or 80)
