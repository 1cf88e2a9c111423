"""Texts in another language than those allowed, by py3langid, in doubt for the text.

py3langid (after Lui & Baldwin, "langid.py: An Off-the-shelf Language Identification Tool", 2012) scores counts of byte n-grams
by naive Bayes. It takes lists of names for Italian and the like, but leaves English a thousandth even there; it leaves the
true rest much less. So what decides is how little is left for the languages allowed, in running text only.
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

from kiloset.filters.measures import measured_where

SURE = 0.5
"""Probability of the language found, in [0, 1], above which a text is in it."""
RARE = 0.001
"""Largest probability, in [0, 1], of all languages allowed together."""
SEED_SURE = 0.9
"""Least probability, in [0, 1], at which a text of the seeds tells a language."""
SEED_SHARE = 0.05
"""Least share of the seeds' texts told for sure that makes a language theirs."""
READ = 1_000
"""Characters that are read of a text."""
SKIMMED, DOUBT = 240, 0.1
"""Bytes of each text by which the many are told from the few that are read, and how likely the languages allowed are there."""
PART = 10_000
"""Texts that are skimmed at once: some 300 MB."""
LEAST_WORDS, LEAST_SIGNS = 8, 14
"""A text of fewer words, or characters of a script without spaces, is not judged: names and loan words then decide."""
PHRASE_WORDS, PHRASE_SIGNS = 4, 8
"""Fewer between two stops are a name or an entry of a list."""
NO_LANGUAGE = "zxx"
SIGNS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese have no spaces."""
STOP = re.compile(r"[\n\t.,;:!?…。，、；：！？।؟،|/\\(){}\[\]<>=*#•–—\"“”«»„0-9_@&+]+|(?:^|(?<=\s))-+(?=\s)")
SIGN = re.compile(f"[{SIGNS}]")
NOT_TEXT = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|www\.\S+", re.DOTALL)
NAMED = re.compile(
    r"translat|languag|lingual|foreign|\banthem|\blyrics|\blorem\b|\bpangram"
    r"|\b(?:afrikaans|albanian|amharic|arab|armenian|aramaic|azerbaijani|basque|belarus|bengali|bosnian|breton|bulgarian|burmese"
    r"|catalan|chinese|mandarin|cantonese|croat|czech|danish|dutch|english|esperanto|estonian|farsi|persian|filipino|finnish|flemish"
    r"|french|galician|gaelic|georgian|german|greek|gujarati|haitian|hausa|hebrew|hindi|hinglish|hungarian|iceland|igbo|indonesian"
    r"|irish|ital|japan|javanese|kannada|kazakh|khmer|korean|kurdish|lao\b|latin|latvian|lithuanian|macedonian|malagasy|malay|maltese"
    r"|maori|marathi|mongolian|nepali|norwegian|odia|pashto|pidgin|polish|portug|brazil|punjabi|quechua|romanian|russian|sanskrit"
    r"|scots|serbian|sinhala|slovak|sloven|somali|spanish|spanglish|swahili|swed|tagalog|tajik|tamil|tatar|telugu|thai\b|tibetan"
    r"|turk|ukrain|urdu|uyghur|uzbek|vietnam|welsh|wolof|xhosa|yiddish|yoruba|zulu"
    # "Translate", "language" and the names of the commonest languages in others than English.
    r"|tradu|traduz|langue|lengua|idioma|lingu|língu|angl|ingl|fran[cç]|alem|allem|espa[gñn]|spagn|tedesc|itali|russ|ruso|chin|cines"
    r"|übersetz|sprache|englisch|französisch|deutsch|spanisch|vertal|vertaal|\btaal|engels|frans\b|duits|spaans"
    r"|översätt|oversett|oversæt|språk|sprog|engelsk|fransk|tysk|spansk|käänn|kieli|englanni|przetłumacz|tłumacz|język|angiel|niemiec"
    r"|przeł|překl|prelo|jazyk|çevir|ingiliz|i̇ngiliz|\bdil|fransız|alman|terjemah|bahasa|inggris|\bdịch|tiếng|fordít|nyelv|angol)"
    r"|перев[её]д|перевод|переклад|язык|мов[аиуою]|англ|франц|немец|німец|исп[аі]н|русск|україн"
    r"|翻译|翻譯|訳|[语語文](?:$|\W|に|で|で|翻|写|寫|回|说|說|版|怎)|英[语語文]|中文|ترجم|لغة|إنجليزي|انجليزي|عربي|فرنسي|अनुवाद|भाषा|अंग्रेज|हिन्दी|हिंदी|번역|언어|영어|한국어|일본어|중국어",
    re.IGNORECASE,
)
"""What an instruction says that may ask for an answer in another language, or speak of one."""
WORD_OF_LETTERS = r"\p{L}[\p{L}\p{M}]*"
UNSPACED = r"[\p{Thai}\p{Lao}\p{Myanmar}\p{Khmer}\p{Hiragana}\p{Katakana}\p{Han}]"


def languages_known(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the ISO 639 codes of what at least a twentieth of the texts that tell their language are in, in order."""
    found = Counter(language for text in texts for language, share in [_likeliest(text)] if share >= SEED_SURE)
    return tuple(sorted(code for code, number in found.items() if number >= SEED_SHARE * found.total()))


def languages_told_apart() -> tuple[str, ...]:
    """Return the ISO 639 codes of all languages that can be found."""
    return tuple(sorted(set(_detector().labels) - {NO_LANGUAGE}))


def foreign(column: str, allowed: Sequence[str]) -> pl.Expr:
    """Return `language` and `share`, its probability, where a text is for sure in none of those allowed; null elsewhere.

    Left alone are short texts, those of which a phrase is in a language allowed, rows whose instruction speaks of languages or
    translation, and a response in the language of its input.
    """
    kind = pl.Struct({"language": pl.String, "share": pl.Float64})
    if not allowed:
        return pl.lit(None, kind)

    def judged(row: dict[str, Any]) -> dict[str, Any] | None:
        if NAMED.search(row["instruction"]):
            return None
        language, share = _foreign_language(row[column], allowed)
        if share <= SURE or (row["input"] and _likeliest(row["input"])[0] == language):
            return None
        return {"language": language, "share": share}

    text = pl.col(column)
    long = (text.str.count_matches(WORD_OF_LETTERS) >= LEAST_WORDS) | (text.str.count_matches(UNSPACED) >= LEAST_SIGNS)
    skimmed = pl.when(long).then(text).map_batches(lambda texts: _doubtful(texts, allowed), return_dtype=pl.Boolean)
    return measured_where(skimmed, ["instruction", "input", "response"], judged, kind)


def _foreign_language(text: str, allowed: Sequence[str]) -> tuple[str, float]:
    """Return what language a text is in, and its probability: 0 unless none of it is in a language allowed."""
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
    return dict(_detector().rank(unicodedata.normalize("NFC", text).lower()))


@cache
def _detector() -> Any:
    """Load py3langid's model with all its languages, 0.6 s; its own is left alone, for its languages are global state."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _tables() -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return of py3langid's automaton the next states, the row of each state in them and its feature; and their weights."""
    detector = _detector()
    rows = np.asarray(detector.tk_row, np.int64) * 256
    return (
        np.asarray(detector.tk_nextmove),
        rows,
        np.asarray(detector.tk_output, np.int64),
        detector.nb_ptc.astype(np.float32),
    )


def _doubtful(texts: pl.Series, allowed: Sequence[str]) -> pl.Series:
    """Tell the texts whose beginning is likelier in another language; null counts as none."""
    at = texts.is_not_null().arg_true().to_numpy()
    found = np.zeros(len(texts), bool)
    ours = [number for number, code in enumerate(_detector().nb_classes) if code in allowed]
    for start in range(0, len(at), PART):
        some = at[start : start + PART]
        found[some] = _skim(texts[some].str.slice(0, SKIMMED))[:, ours].sum(axis=1) < DOUBT
    return pl.Series(found)


def _skim(texts: pl.Series) -> NDArray[np.float32]:
    """Return `(texts, classes)`: py3langid's probabilities by the first bytes of each text, all stepped through together."""
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    lowered = texts.str.to_lowercase()
    data = np.frombuffer("".join(lowered).encode(), np.uint8)
    sizes = lowered.str.len_bytes().to_numpy().astype(np.int64)
    begins, read = np.cumsum(sizes) - sizes, np.minimum(sizes, SKIMMED)
    order = np.argsort(-read, kind="stable")  # those still being read stand first
    begins, left = begins[order], len(texts) - np.cumsum(np.bincount(read, minlength=SKIMMED + 1))
    moves, rows, outputs, weights = _tables()
    state = np.zeros(len(texts), np.int64)
    who, what = [], []
    for step in range(SKIMMED):
        if not (alive := left[step]):
            break
        state = moves[rows[state[:alive]] + data[begins[:alive] + step]]
        feature = outputs[state]
        seen = np.flatnonzero(feature >= 0)
        who.append(seen)
        what.append(feature[seen])
    place = np.concatenate(who or [rows[:0]]), np.concatenate(what or [rows[:0]])
    counts = csr_array((np.ones(len(place[0]), np.float32), place), shape=(len(texts), len(weights)))
    counts.data = np.log1p(counts.data)
    scores = counts @ weights + _detector().nb_pc
    scores[np.diff(counts.indptr) == 0] = 0.0  # nothing is known of a text without features
    scores /= np.sqrt(np.maximum(read[order], 1))[:, None]
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: NDArray[np.float32] = np.empty_like(shares)
    found[order] = shares / shares.sum(axis=1, keepdims=True)
    return found
