"""Every instruction of IFEval and IFBench with arguments that its checker takes."""

_IFEVAL = {
    "keywords:existence": {"keywords": ["river", "bridge"]},
    "keywords:frequency": {"keyword": "river", "frequency": 2, "relation": "at least"},
    "keywords:forbidden_words": {"forbidden_words": ["sky"]},
    "keywords:letter_frequency": {"letter": "q", "let_frequency": 2, "let_relation": "less than"},
    "language:response_language": {"language": "en"},
    "length_constraints:number_sentences": {"num_sentences": 2, "relation": "at least"},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    "length_constraints:number_words": {"num_words": 5, "relation": "less than"},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "the"},
    "detectable_content:number_placeholders": {"num_placeholders": 1},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "detectable_format:number_bullet_lists": {"num_bullets": 3},
    "detectable_format:constrained_response": {},
    "detectable_format:number_highlighted_sections": {"num_highlights": 1},
    "detectable_format:multiple_sections": {"section_spliter": "SECTION", "num_sections": 2},
    "detectable_format:json_format": {},
    "detectable_format:title": {},
    "combination:two_responses": {},
    "combination:repeat_prompt": {"prompt_to_repeat": "Describe the river."},
    "startend:end_checker": {"end_phrase": "Is there more?"},
    "change_case:capital_word_frequency": {"capital_frequency": 2, "capital_relation": "at least"},
    "change_case:english_capital": {},
    "change_case:english_lowercase": {},
    "punctuation:no_comma": {},
    "startend:quotation": {},
}
_IFBENCH = {
    "count:word_count_range": {"min_words": 2, "max_words": 9},
    "count:unique_word_count": {"N": 5},
    "count:conjunctions": {"small_n": 2},
    "count:person_names": {"N": 2},
    "ratio:overlap": {"reference_text": "The river is wide.", "percentage": 50},
    "count:numbers": {"N": 2},
    "format:options": {"options": "yes/no/maybe"},
    "count:words_japanese": {"N": 3},
    "words:repeats": {"small_n": 2},
    "sentence:keyword": {"word": "river", "N": 2},
    "count:pronouns": {"N": 2},
    "sentence:increment": {"small_n": 2},
    "format:list": {"sep": "-"},
    "count:keywords_multiple": {f"keyword{number}": f"word{number}" for number in range(1, 6)},
    "words:keywords_specific_position": {"keyword": "river", "n": 1, "m": 2},
    "words:words_position": {"keyword": "river"},
    "repeat:repeat_change": {"prompt_to_repeat": "Describe the river."},
    "repeat:repeat_span": {"prompt_to_repeat": "Describe the wide river.", "n_start": 1, "n_end": 3},
}
_WITHOUT = (
    "ratio:sentence_type ratio:sentence_balance words:alphabet words:vowel words:consonants "
    "sentence:alliteration_increment words:palindrome count:punctuation format:parentheses format:quotes "
    "words:prime_lengths format:newline format:emoji ratio:sentence_words words:odd_even_syllables words:last_first "
    "words:paragraph_last_first words:no_consecutive format:line_indent format:quote_unquote format:thesis "
    "format:sub-bullets format:no_bullets_bullets custom:multiples custom:mcq_count_length custom:reverse_newline "
    "custom:word_reverse custom:character_reverse custom:sentence_alphabet custom:european_capitals_sort "
    "custom:csv_city custom:csv_special_character custom:csv_quotes custom:date_format_list repeat:repeat_simple "
    "format:title_case format:output_template format:no_whitespace"
)
# These two read data of NLTK that no package has.
NEED_DATA = {"ratio:stop_words": {"percentage": 10}, "words:start_verb": {}}
INSTRUCTIONS = {**_IFEVAL, **_IFBENCH, **{name: {} for name in _WITHOUT.split()}}


def row(key, *names, **more):
    """A row of a file of prompts with these instructions."""
    kwargs = [INSTRUCTIONS[name] for name in names]
    return {"key": key, "prompt": f"Request {key}.", "instruction_id_list": list(names), "kwargs": kwargs, **more}
