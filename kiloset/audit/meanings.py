"""What each fault of a set is called, what it means for whoever trains on it, and how grave it is."""

from dataclasses import dataclass
from typing import Literal

Grade = Literal["grave", "poor", "notice"]
GRADES: dict[Grade, str] = {
    "grave": "to be settled before the set is used",
    "poor": "teaches the wrong thing, or the same thing twice",
    "notice": "worth a look, often meant so",
}
"""Grades, the worst first."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a fault is."""

    grade: Grade
    title: str
    says: str


MEANINGS = {
    "broken_line": Meaning("grave", "Lines that cannot be read", "They are in no figure below, and a trainer may stop at them or skip them without a word."),
    "contaminated": Meaning("grave", "Rows that repeat a benchmark", "What a model trained on them scores there is worth nothing. The evidence quotes what is shared."),
    "personal_data": Meaning("grave", "Personal data and keys", "E-mail addresses, phone and card numbers, IBAN, public IP addresses, keys and tokens. A model can learn them by heart. Names are not looked for; values are not shown."),
    "licences": Meaning("grave", "Licences that bind or contradict each other", "The set as a whole can be passed on only as all its licences allow. Facts of their texts, no legal advice."),
    "response_empty": Meaning("poor", "Empty answers", "They teach to say nothing."),
    "response_short": Meaning("poor", "Answers too short for what is asked", "One or two words where a text is asked for, or no letter at all. What is asked for is read in English only."),
    "response_cut": Meaning("poor", "Cut answers", "They end in the middle of a sentence, and teach to stop there. One cut after a word that could end it is not told from a whole one."),
    "response_refuses": Meaning("poor", "Refusals", "They teach to refuse tasks like these. Read in English only."),
    "response_apologises": Meaning("poor", "Answers that apologise for nothing", "“I apologize for the confusion, …” where nobody was confused: left over from a conversation that is not there. Read in English only."),
    "response_speaks_of_itself": Meaning("poor", "Answers that speak of being a model", "They teach another model's name and habits."),
    "scaffolding": Meaning("poor", "Scaffolding of prompts and chat templates", "Tokens such as <|im_end|>, or “Task 3:” and “Output:” where a text should be: left over from how the rows were made."),
    "exact_duplicate": Meaning("poor", "Exact duplicates", "Instruction, input and answer are those of another row but for case, punctuation and white space. Each is learnt as often as it stands there."),
    "near_duplicate": Meaning("poor", "Near-duplicates", "Instruction and input are almost another row's: they share 70 % or more of their character 5-grams (of short ones, 75 % of 4-grams or all words). On both sides of a split they leak."),
    "other_answer": Meaning("poor", "Same task, another answer", "Instruction and input are another row's, the answer is not: the model is taught both. Right where several answers are meant."),
    "category_dominates": Meaning("poor", "A category that dominates", "More than half of the rows, and more than one and a half times an even share: more than all others together, so it is what the set mostly teaches."),
    "other_language": Meaning("poor", "Rows in another language", "Instruction or answer is for sure in none of the languages that a fifth of the rows are in. Tasks that speak of languages or translation are left alone."),
    "response_json_broken": Meaning("poor", "JSON that does not parse", "The answer is, or holds, what is meant to be JSON."),
    "response_fence_open": Meaning("poor", "Code blocks that are not closed", "A code fence without its pair, often where an answer was cut."),
    "response_echoes": Meaning("poor", "Answers that are the question again", "The answer is the instruction or the whole input once more."),
    "response_repetitive": Meaning("poor", "Answers that repeat themselves", "More than a quarter of the 4-grams of words stand there before, or one word is half of the text. A model in a loop writes so; so does a chorus."),
    "control_characters": Meaning("poor", "Control and replacement characters", "What a wrong encoding leaves."),
    "constraint_broken": Meaning("poor", "Answers that break a constraint", "The row states a constraint that a program checks, and the answer does not keep it."),
    "refers_to_missing_input": Meaning("poor", "Tasks without the text they speak of", "“The following text”, and none follows: the answer can only be made up."),
    "instruction_needs_media": Meaning("poor", "Tasks about pictures, sound or files", "No text model sees what they speak of."),
    "instruction_has_answer": Meaning("poor", "Tasks that hold their answer", "The instruction ends with “Answer: …”."),
    "instruction_too_short": Meaning("notice", "Instructions of one or two words", "Hard to tell what is asked for."),
    "instruction_repetitive": Meaning("notice", "Instructions that repeat themselves", "More than a quarter of the 4-grams of words stand there before."),
    "input_repetitive": Meaning("notice", "Inputs that repeat themselves", "More than a quarter of the 4-grams of words stand there before."),
    "instruction_too_long": Meaning("notice", "Very long instructions", "Over 600 words: what is beyond the length that a trainer reads is cut off, often the answer."),
    "input_too_long": Meaning("notice", "Very long inputs", "Over 600 words: what is beyond the length that a trainer reads is cut off, often the answer."),
    "response_too_long": Meaning("notice", "Very long answers", "Over 800 words: what is beyond the length that a trainer reads is cut off, and the end of the answer is not learnt."),
    "response_no_stop": Meaning("notice", "Answers that end without a full stop", "In prose whose sentences before have theirs: perhaps cut, perhaps only careless."),
    "shared_text": Meaning("notice", "Two tasks on one text", "Much of the text is another row's, and yet instruction or input is another: questions about one passage, for example. They belong on one side of a split."),
    "template": Meaning("notice", "More than three rows on one frame", "They differ in numbers, names or symbols only. Right where that is what is to be learnt."),
    "opening_common": Meaning("notice", "An opening that dominates", "More than a tenth of the answers of six words or more begin with the same three words: the model will too."),
    "license_missing": Meaning("notice", "Rows without a licence", "Others state one; of these nobody knows whether they may be passed on."),
}  # fmt: skip
"""By name. Most names are those of rules (`kiloset.filters.rules`); `OF_RULES` has the rest."""

OF_RULES = {
    "instruction_leaks_prompt": "scaffolding",
    "input_leaks_prompt": "scaffolding",
    "response_leaks_template": "scaffolding",
    "response_labelled": "scaffolding",
    "response_unfinished": "response_cut",
    "response_loops": "response_repetitive",
    "instruction_language": "other_language",
    "response_language": "other_language",
}
"""Faults of rules that have no name of their own here."""
