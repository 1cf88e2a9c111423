"""Detect texts in a language that is not allowed, with py3langid; in doubt a text passes.

py3langid (after Lui & Baldwin, "langid.py: An Off-the-shelf Language Identification Tool", 2012) scores counts of byte n-grams
by naive Bayes. It takes a list of names for Italian, for example, but still gives English a probability of a thousandth; for a
text that is truly in another language it gives much less. So the probability of the allowed languages decides, in running text.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kiloset.core.constraint_text import language_detector
from kiloset.filters.measures import measured_where

SURE = 0.5
"""Probability of the detected language, in [0, 1], above which a text is in it."""
RARE = 0.001
"""Largest probability, in [0, 1], of all allowed languages together for a text in another language."""
SEED_SURE = 0.9
"""Least probability, in [0, 1], at which the language of a seed's text is certain."""
SEED_SHARE = 0.05
"""Least share of the texts with a certain language from which that language is one of the seeds' languages."""
READ = 1_000
"""Characters read of a text."""
SKIMMED, DOUBT = 240, 0.1
"""Bytes of each text that are skimmed to select the texts to read, and the probability of the allowed languages below which a
text is read."""
PART = 10_000
"""Texts skimmed at once, in about 300 MB."""
LEAST_WORDS, LEAST_SIGNS = 8, 14
"""A text of fewer words, or characters of a script without spaces, passes: names and loan words would decide."""
PHRASE_WORDS, PHRASE_SIGNS = 4, 8
"""Fewer words or characters between two stops are a name or an entry of a list."""
NO_LANGUAGE = "zxx"
SIGNS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese have no spaces."""
STOP = re.compile(r"[\n\t.,;:!?…。，、；：！？।؟،|/\\(){}\[\]<>=*#•–—\"“”«»„0-9_@&+]+|(?:^|(?<=\s))-+(?=\s)")
SIGN = re.compile(f"[{SIGNS}]")
NOT_TEXT = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|www\.\S+", re.DOTALL)
LANGUAGE_TASK = re.compile(
    r"translat|languag|lingual|foreign|\banthem|\blyrics|\blorem\b|\bpangram"
    r"|\b(?:afrikaans|albanian|amharic|arab|armenian|aramaic|azerbaijani|basque|belarus|bengali|bosnian|breton|bulgarian|burmese"
    r"|catalan|chinese|mandarin|cantonese|croat|czech|danish|dutch|english|esperanto|estonian|farsi|persian|filipino|finnish|flemish"
    r"|french|galician|gaelic|georgian|german|greek|gujarati|haitian|hausa|hebrew|hindi|hinglish|hungarian|iceland|igbo|indonesian"
    r"|irish|ital|japan|javanese|kannada|kazakh|khmer|korean|kurdish|lao\b|latin|latvian|lithuanian|macedonian|malagasy|malay|maltese"
    r"|maori|marathi|mongolian|nepali|norwegian|odia|pashto|pidgin|polish|portug|brazil|punjabi|quechua|romanian|russian|sanskrit"
    r"|scots|serbian|sinhala|slovak|sloven|somali|spanish|spanglish|swahili|swed|tagalog|tajik|tamil|tatar|telugu|thai\b|tibetan"
    r"|turk|ukrain|urdu|uyghur|uzbek|vietnam|welsh|wolof|xhosa|yiddish|yoruba|zulu"
    # "Translate", "language" and the names of the most frequent languages, in other languages than English.
    r"|tradu|traduz|langue|lengua|idioma|lingu|língu|angl|ingl|fran[cç]|alem|allem|espa[gñn]|spagn|tedesc|itali|russ|ruso|chin|cines"
    r"|übersetz|sprache|englisch|französisch|deutsch|spanisch|vertal|vertaal|\btaal|engels|frans\b|duits|spaans"
    r"|översätt|oversett|oversæt|språk|sprog|engelsk|fransk|tysk|spansk|käänn|kieli|englanni|przetłumacz|tłumacz|język|angiel|niemiec"
    r"|przeł|překl|prelo|jazyk|çevir|ingiliz|i̇ngiliz|\bdil|fransız|alman|terjemah|bahasa|inggris|\bdịch|tiếng|fordít|nyelv|angol)"
    r"|перев[её]д|перевод|переклад|язык|мов[аиуою]|англ|франц|немец|німец|исп[аі]н|русск|україн"
    r"|翻译|翻譯|訳|[语語文](?:$|\W|に|で|で|翻|写|寫|回|说|說|版|怎)|英[语語文]|中文|ترجم|لغة|إنجليزي|انجليزي|عربي|فرنسي|अनुवाद|भाषा|अंग्रेज|हिन्दी|हिंदी|번역|언어|영어|한국어|일본어|중국어",
    re.IGNORECASE,
)
"""Words of an instruction that may request an answer in another language, or be about one."""
WORD_OF_LETTERS = r"\p{L}[\p{L}\p{M}]*"
UNSPACED = r"[\p{Thai}\p{Lao}\p{Myanmar}\p{Khmer}\p{Hiragana}\p{Katakana}\p{Han}]"


def languages_known(texts: Iterable[str]) -> tuple[str, ...]:
    """Return, in order, the ISO 639 codes of the languages of at least a twentieth of the texts with a certain language."""
    counts = Counter(language for text in texts for language, share in [_likeliest(text)] if share >= SEED_SURE)
    return tuple(sorted(code for code, number in counts.items() if number >= SEED_SHARE * counts.total()))


def known_languages() -> tuple[str, ...]:
    """Return the ISO 639 codes of all languages that can be detected."""
    return tuple(sorted(set(language_detector().labels) - {NO_LANGUAGE}))


def foreign(column: str, allowed: Sequence[str]) -> pl.Expr:
    """Return `language` and `share`, its probability, for a text that is certainly in no allowed language; else null.

    These texts pass: short texts, texts with a phrase in an allowed language, rows whose instruction is about languages or
    translation, and responses in the language of their input.
    """
    kind = pl.Struct({"language": pl.String, "share": pl.Float64})
    if not allowed:
        return pl.lit(None, kind)

    def detected(row: dict[str, Any]) -> dict[str, Any] | None:
        if LANGUAGE_TASK.search(row["instruction"]):
            return None
        language, share = _foreign_language(row[column], allowed)
        if share <= SURE or (row["input"] and _likeliest(row["input"])[0] == language):
            return None
        return {"language": language, "share": share}

    text = pl.col(column)
    long = (text.str.count_matches(WORD_OF_LETTERS) >= LEAST_WORDS) | (text.str.count_matches(UNSPACED) >= LEAST_SIGNS)
    skimmed = pl.when(long).then(text).map_batches(lambda texts: _doubtful(texts, allowed), return_dtype=pl.Boolean)
    return measured_where(skimmed, ["instruction", "input", "response"], detected, kind)


def _foreign_language(text: str, allowed: Sequence[str]) -> tuple[str, float]:
    """Return the language of a text and its probability, 0 if any part of the text is in an allowed language."""
    phrases = _phrases(NOT_TEXT.sub("\n", text[:READ]))
    running = " ".join(phrases)
    if len(running.split()) < LEAST_WORDS and len(SIGN.findall(running)) < LEAST_SIGNS:
        return NO_LANGUAGE, 0.0
    for part in (running, text[:READ]):
        shares = _shares(part)
        language, share = max(shares.items(), key=lambda each: each[1])
        if language in (NO_LANGUAGE, *allowed) or sum(shares.get(code, 0.0) for code in allowed) > RARE:
            return NO_LANGUAGE, 0.0
    if any(_likeliest(phrase)[0] in allowed for phrase in phrases):
        return NO_LANGUAGE, 0.0
    return language, share


def _phrases(text: str) -> list[str]:
    return [
        phrase.strip()
        for phrase in STOP.split(text)
        if len(phrase.split()) >= PHRASE_WORDS or len(SIGN.findall(phrase)) >= PHRASE_SIGNS
    ]


def _likeliest(text: str) -> tuple[str, float]:
    return max(_shares(text[:READ]).items(), key=lambda each: each[1])


def _shares(text: str) -> dict[str, float]:
    """Return the probability of each language."""
    return dict(language_detector().rank(unicodedata.normalize("NFC", text).lower()))


@cache
def _tables() -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return py3langid's automaton: the next states, each state's row in them, each state's feature, the features' weights."""
    detector = language_detector()
    rows = np.asarray(detector.tk_row, np.int64) * 256
    return (
        np.asarray(detector.tk_nextmove),
        rows,
        np.asarray(detector.tk_output, np.int64),
        detector.nb_ptc.astype(np.float32),
    )


def _doubtful(texts: pl.Series, allowed: Sequence[str]) -> pl.Series:
    """Return whether the beginning of each text is probably in another language; false for null."""
    at = texts.is_not_null().arg_true().to_numpy()
    doubtful = np.zeros(len(texts), bool)
    ours = [number for number, code in enumerate(language_detector().nb_classes) if code in allowed]
    for start in range(0, len(at), PART):
        some = at[start : start + PART]
        doubtful[some] = _skim(texts[some].str.slice(0, SKIMMED))[:, ours].sum(axis=1) < DOUBT
    return pl.Series(doubtful)


def _skim(texts: pl.Series) -> NDArray[np.float32]:
    """Return `(texts, classes)` probabilities of py3langid by the first bytes of each text, for all texts at a time."""
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    lowered = texts.str.to_lowercase()
    data = np.frombuffer("".join(lowered).encode(), np.uint8)
    sizes = lowered.str.len_bytes().to_numpy().astype(np.int64)
    begins, read = np.cumsum(sizes) - sizes, np.minimum(sizes, SKIMMED)
    order = np.argsort(-read, kind="stable")  # texts with more bytes to read come first
    begins, reading = begins[order], len(texts) - np.cumsum(np.bincount(read, minlength=SKIMMED + 1))
    moves, rows, outputs, weights = _tables()
    state = np.zeros(len(texts), np.int64)
    who, what = [], []
    for step in range(SKIMMED):
        if not (alive := reading[step]):
            break
        state = moves[rows[state[:alive]] + data[begins[:alive] + step]]
        feature = outputs[state]
        seen = np.flatnonzero(feature >= 0)
        who.append(seen)
        what.append(feature[seen])
    place = np.concatenate(who or [rows[:0]]), np.concatenate(what or [rows[:0]])
    counts = csr_array((np.ones(len(place[0]), np.float32), place), shape=(len(texts), len(weights)))
    counts.data = np.log1p(counts.data)
    scores = counts @ weights + language_detector().nb_pc
    scores[np.diff(counts.indptr) == 0] = 0.0  # a text without features has no evidence
    scores /= np.sqrt(np.maximum(read[order], 1))[:, None]
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = np.empty_like(shares)
    probabilities[order] = shares / shares.sum(axis=1, keepdims=True)
    return probabilities
