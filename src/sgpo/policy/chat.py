"""What a chat template does to training and to the end of responses, seen before any model is loaded."""

from collections.abc import Iterator, Sequence

from datasets import Dataset

from sgpo.errors import InputError, first_line
from sgpo.policy.load import Policy, check_vocabulary
from sgpo.policy.tokens import end_tokens, split_ids

_QUESTION, _ANSWER, _THOUGHT = "Who built the bridge?", "A mason built it.", "Was it a mason?"


def inspect_chat(policy: Policy, *, stop: Sequence[str] = (), generates: bool = True) -> list[str]:
    """Renders a question and its answer, and returns what a user should know; `stop` are texts that end a response too.
    It needs no weights. InputError: no answer is rendered, or, if the policy `generates`, it would not end."""
    notes, who = check_vocabulary(policy), f"the chat template of {policy.tokenizer.name_or_path!r}"

    def render(*texts: str) -> str:
        turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
        return policy.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=len(texts) % 2 == 1)

    try:
        prompt, whole = render(_QUESTION), render(_QUESTION, _ANSWER)
        thoughtful = render(_QUESTION, f"<think>\n{_THOUGHT}\n</think>\n\n{_ANSWER}")
    except Exception as error:
        # It may want a system turn, say. Whether it takes the rows of the data is seen when these are tokenized.
        return [*notes, f"{who} refuses a question and an answer, so its use is not checked: {first_line(error)}."]
    shared, rest = map("".join, split_ids(list(prompt), list(whole)))
    header, found, closing = rest.rpartition(_ANSWER)
    if not found:
        raise InputError(f"{who} leaves out what the assistant says; allowed: one that renders every turn.")
    notes += _inspect_closing(policy, closing, stop, who, generates=generates)
    if unknown := sorted(set(_ends(policy)) - set(policy.tokenizer.get_vocab().values())):
        notes.append(f"the end tokens {unknown} of the generation config are none of {policy.path!r}'s tokens.")
    if shared != prompt:
        notes.append(
            f"{who} ends a prompt in {prompt[len(shared) :]!r} for generation only: what is scored and trained on "
            f"continues there with {rest!r}."
        )
    elif header.strip():
        notes.append(f"{who} adds no generation prompt: {header!r} is scored and trained on as part of the response.")
    if _THOUGHT not in thoughtful:
        notes.append(f"{who} leaves out <think>...</think>: what a response reasons there is not scored or trained on.")
    try:
        render(_QUESTION, _ANSWER, _QUESTION)
    except Exception as error:
        notes.append(f"{who} refuses a second question, such as MT-Bench asks: {first_line(error)}.")
    if "strftime_now" in str(policy.tokenizer.chat_template):
        notes.append(f"{who} renders the date: all of a run has that of its start, but servers that of the day.")
    return notes


def note_chat(policy: Policy) -> list[str]:
    """What `inspect_chat` says of a policy that is to be measured as it is: nothing is refused."""
    try:
        return inspect_chat(policy, generates=False)
    except InputError as error:
        return [str(error)]


def _inspect_closing(policy: Policy, closing: str, stop: Sequence[str], who: str, *, generates: bool) -> list[str]:
    tokenizer, ends, texts = policy.tokenizer, _ends(policy), _end_texts(policy)
    ids = tokenizer(closing, add_special_tokens=False)["input_ids"]
    mark = next((token for token in ids if token in tokenizer.added_tokens_decoder), None)
    if set(ids) & set(ends) or (mark is None and closing.strip() and any(text in closing for text in stop)):
        return []
    if mark is None:
        said = f"{who} closes a response with {closing!r}, which is no end token"
        return [f"{said}: generation ends only at {texts}, or at a text of generation.stop."]
    named = f"{tokenizer.convert_ids_to_tokens(mark)!r} ({mark})"
    said = f"{who} closes a response with {named}, and generation ends only at {texts}: none would end"
    mend = f"Add {mark} to eos_token_id in generation_config.json."
    if generates:
        raise InputError(f"{said}; allowed: an end token. {mend}")
    return [f"{said}. {mend}"]


def rows_with_ends(policy: Policy, pairs: Dataset) -> Iterator[int]:
    """Rows of the pairs that hold an end token as text, which the tokenizer reads as the token itself."""
    ends = _end_texts(policy)
    for row, pair in enumerate(pairs.select_columns(["prompt", "chosen", "rejected"])):
        if any(end in message["content"] for end in ends for messages in pair.values() for message in messages):
            yield row


def _ends(policy: Policy) -> list[int]:
    return end_tokens(policy.tokenizer, policy.model.generation_config.eos_token_id)


def _end_texts(policy: Policy) -> list[str]:
    return list(filter(None, policy.tokenizer.convert_ids_to_tokens(_ends(policy))))
