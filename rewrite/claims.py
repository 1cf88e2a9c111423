"""Check that a rewrite makes the same claims as its reference: denials, opposites, roles, choices.

Sentences of the two texts are aligned by their shared content words, and only statements about the same words are compared. A
sentence in completely other words is not compared, so these checks miss much and reject little. English only. Words are
compared by a crude stem. At most `MOST_SENTENCES` of a text are compared, which keeps the comparison of all sentences with all
others linear in the text.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise

from kiloset.core.form import FUNCTION_WORDS
from kiloset.core.sentences import sentences_of_lines
from kiloset.core.text import WORD, words
from kiloset.rewrite.checks import Verdict, fences, names_of, not_applicable, plain, series, verdict

MOST_SENTENCES = 100
"""Sentences compared of each text; an answer of 1,024 tokens usually has fewer."""
MOST_WORDS = 100
"""Words compared of each sentence."""
MIN_OVERLAP = 0.5
"""Share of the shorter sentence's content words that two matching sentences have in common at least."""
MIN_SHARED = 2
"""Content words that two matching sentences have in common at least."""
HEAD_REACH = 4
"""Words after "not" among which the denied word is searched."""
DENIALS = frozenset(words("not never no none nobody nothing neither nor without unable impossible"))
"""Words that deny the next content word; "cannot" and "n't" are read as "not"."""
DENYING_PRONOUNS = frozenset(words("none nobody nothing"))
"""These deny no word before a preposition: "none of it at noon"."""
PREPOSITIONS = frozenset(words("of in on at to for from by with about"))
NOT_DENYING = frozenset(words("only just merely simply more less fewer later earlier sooner other doubt matter wonder"))
"""After "not" or "no" these form an idiom ("not only", "no later than") that denies nothing."""
AVOIDANCE = frozenset(
    words("avoid refrain refuse fail lack prevent instead rather exclude except forbid prohibit off out unless without")
)
"""Words that may mean a denial ("avoid it" for "do not use it")."""
SWITCHES = frozenset(words("on off"))
"""Opposites at the end of a clause ("turn it on"); elsewhere they are prepositions."""
HEDGES = frozenset(
    words(
        "only just few little rarely hardly seldom barely some part partly partially until stop keep hard difficult false wrong "
        "less free leave leaves except but far too"
    )
)
"""Words that may mean a part of a denial ("removes only part" for "does not remove all")."""
NEGATED = frozenset(
    words(
        "inaccurate inactive inadequate incapable incomplete inconsistent incorrect indirect ineffective inefficient "
        "inexpensive inflexible insecure insufficient invalid invisible illegal illogical impatient imperfect impolite "
        "impractical improper irregular irrelevant irreversible dishonest disagree disallow disapprove dislike"
    )
)
"""Words whose prefix denies their rest, as in any word that begins with "un", except the words of `NOT_NEGATED`."""
NOT_NEGATED = re.compile(r"un(?:der|i|less|til|like|to\b|cle|usual)")
OPPOSITES = """
increase rise rose risen raise grow grew climb|decrease fall fell fallen drop decline reduce shrink shrank sink
more most|less least fewer
high|low
large big great huge|small little tiny
long|short brief
heavy|light
fast quick rapid|slow
hot warm|cold cool
hotter warmer|colder cooler
wet moist damp|dry
before|after
early|late
above over|below under beneath
inside indoors indoor|outside outdoors outdoor
north northern|south southern
east eastern|west western
left|right
maximum maximal|minimum minimal
win won winner|lose lost loser
buy bought purchase|sell sold
import|export
open|close shut
begin start|end finish
positive|negative
true|false
correct|incorrect wrong
good better best|bad worse worst
strong|weak
safe|dangerous
easy simple|hard difficult
rich wealthy|poor
old|young new
allow permit|forbid prohibit ban
include|exclude
accept approve|reject refuse
attract|repel
absorb|emit release
add|subtract remove
multiply|divide
male|female
thick|thin
wide broad|narrow
deep|shallow
bright light|dark
full|empty
near close|far distant
expensive costly|cheap
common|rare
succeed success|fail failure
push|pull
expand|contract
public|private
internal|external
vertical|horizontal
summer|winter
morning|evening
optional|mandatory compulsory
on.|off.
"""
"""Pairs of opposites, with synonyms on each side; "on." stands for a word that ends a clause."""
CHOICE = re.compile(
    r"(?<![\w'\"-])((?:['\"]?\w++['\"]?, (?:an? )?){0,8})['\"]?(\w++)['\"]?,? or (?:an? |the )?['\"]?(\w++)",
    re.IGNORECASE,
)
LISTED = 3
"""Least number of sorted things that is compared."""
CLAUSE_GAP = re.compile(r"(?<=;)\s++")
TOKEN = re.compile(rf"{WORD.pattern}|[,:()–—]")
SUFFIXES = ("ingly", "edly", "ing", "est", "ed", "er", "es", "ly", "s", "e")
BY = frozenset(words("by was were is are been being"))
"""Words of the passive voice, which exchanges the places of the names."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """What the checks compare of one sentence."""

    words: tuple[str, ...]
    stems: tuple[str, ...]
    content: frozenset[str]
    """Stems of the content words."""
    denied: dict[str, str]
    """The denied words, by stem."""
    denials: int
    avoids: frozenset[str]
    hedges: bool


def keeps_denials(reference: str, rewrite: str) -> Verdict:
    """`negation`: neither text affirms what the other denies ("should not charge", "unsafe").

    Detected if the denied word is not denied in the matching sentence, and is nowhere denied or hedged.
    """
    theirs, ours = sentences(reference), sentences(rewrite)
    if not any(sentence.denied for sentence in [*theirs, *ours]):
        return not_applicable("negation", "neither text denies anything")
    lost = [f"affirms {word!r}, which the reference denies" for word in _turned(theirs, ours)]
    new = [f"denies {word!r}, which the reference affirms" for word in _turned(ours, theirs)]
    faults = lost + new
    evidence = f"the rewrite {faults[0]}" if faults else "no denial is dropped or added"
    return verdict("negation", not faults, evidence, len(faults), 0)


def keeps_direction(reference: str, rewrite: str) -> Verdict:
    """`opposites`: no sentence has "increases" where the matching sentence of the reference has "decreases".

    A second opposite, a denial, or exchanged places ("A before B", "B after A") can restore the meaning.
    """
    theirs, ours = sentences(reference), sentences(rewrite)
    if not any(stem in _POLES for sentence in theirs for stem in sentence.stems):
        return not_applicable("opposites", "the reference has no word with a known opposite")
    turned = [fault for sentence in ours if (fault := _turned_around(sentence, theirs))]
    evidence = "no word is turned into its opposite"
    if turned:
        evidence = f'the rewrite states "{turned[0][1]}" where the reference states "{turned[0][0]}"'
    return verdict("opposites", not turned, evidence, len(turned), 0)


def keeps_roles(reference: str, rewrite: str) -> Verdict:
    """`roles`: no statement of the reference about one name or number becomes a statement about another of them.

    Detected if matching sentences have different names, different numbers of four digits (usually years; smaller numbers
    recur too often), or the same two names in another order around the same word.
    """
    theirs, ours = sentences(reference), sentences(rewrite)
    names = frozenset(stem_of(name) for name in names_of(fences(reference).prose))
    years = frozenset(word for word in words(fences(reference).prose) if word.isdecimal() and len(word) == 4)
    if len(names) < 2 and len(years) < 2:
        return not_applicable("roles", "the reference has fewer than two names and than two years")
    faults = [
        fault
        for sentence in ours
        if (fault := _misattributed(sentence, theirs, names) or _exchanged(sentence, theirs, years))
    ]
    evidence = f"the rewrite {faults[0]}" if faults else "no name or number replaces another"
    return verdict("roles", not faults, evidence, len(faults), 0)


def keeps_sides(reference: str, rewrite: str) -> Verdict:
    """`sides`: "from X to Y", "X into Y" and "X is larger than Y" do not become "from Y to X" and so on."""
    theirs, ours = sentences(reference), sentences(rewrite)
    if not any(_pivots(sentence) for sentence in theirs):
        return not_applicable("sides", 'the reference has no "from ... to", "into" or "than"')
    faults = [fault for sentence in ours if (fault := _sides_swapped(sentence, theirs))]
    evidence = f"the rewrite has {faults[0]}" if faults else "nothing changes sides"
    return verdict("sides", not faults, evidence, len(faults), 0)


def keeps_choice(instruction: str, reference: str, rewrite: str) -> Verdict:
    """`choice`: of the words between which the instruction requests a choice ("fruit or vegetable"), both texts have the same.

    Only the instruction's first paragraph is read, because a text to work on usually follows.
    """
    ours, theirs = _stems(rewrite), _stems(reference)
    for match in CHOICE.finditer(plain(instruction.lstrip().split("\n\n")[0])):
        offered = {stem_of(word): word for word in words(" ".join(match.groups(""))) if word not in FUNCTION_WORDS}
        chosen, now = offered.keys() & theirs, offered.keys() & ours
        if len(offered) >= 2 and len(chosen) == 1:
            (old,) = chosen
            new = ", ".join(offered[stem] for stem in sorted(now)) or "none of the choices"
            same = old in now or not now
            return verdict("choice", same, f"the rewrite states {new}, the reference {offered[old]}")
    return not_applicable("choice", "the reference does not choose one of several words of the instruction")


def keeps_groups(instruction: str, reference: str, rewrite: str) -> Verdict:
    """`groups`: things that the instruction lists ("cats, sheep, whales") return, grouped into sentences or lines as before.

    A thing is recognised by its last word. Groups are compared only if both texts have two of them, because one sentence may
    contain all things.
    """
    for listed in series(plain(instruction.lstrip().split("\n\n")[0])):
        heads = dict.fromkeys(stem_of(words(item)[-1]) for item in listed if words(item))
        old, new = (_places(text, heads) for text in (reference, rewrite))
        sorted_once = [head for head in heads if len(old[head]) == 1]
        if len(sorted_once) < LISTED:
            continue
        lost = [head for head in sorted_once if not new[head]]
        both = [head for head in sorted_once if len(new[head]) == 1]
        moved: list[str] = []
        if min(len(set().union(*(places[head] for head in both))) for places in (old, new)) >= 2:
            moved = [a for a in both if any((old[a] == old[b]) != (new[a] == new[b]) for b in both)]
        gone, apart = (", ".join(stems[:5]) or "none" for stems in (lost, moved))
        evidence = f"of the things to be sorted the rewrite loses {gone}, and {apart} changed groups"
        return verdict("groups", not lost and not moved, evidence, len(lost) + len(moved), 0)
    return not_applicable("groups", "the reference does not sort things that the instruction lists")


def _places(text: str, heads: Collection[str]) -> dict[str, set[int]]:
    """Return, by stem, the numbers of the sentences or lines that contain each word."""
    places: dict[str, set[int]] = {head: set() for head in heads}
    for number, piece in enumerate(_pieces(fences(text).prose)):
        for stem in places.keys() & _stems(piece):
            places[stem].add(number)
    return places


@lru_cache(maxsize=16)
def sentences(text: str) -> tuple[Sentence, ...]:
    """Return the sentences of a text outside code blocks, without questions; four checks need them for both texts."""
    prose = fences(text).prose.replace("’", "'")
    statements = (piece for piece in _pieces(prose) if not piece.endswith("?"))
    return tuple(_read(piece) for piece in islice(statements, MOST_SENTENCES))


def _pieces(prose: str) -> list[str]:
    """Return the sentences of each line, divided at semicolons too."""
    return [piece for sentence in sentences_of_lines(prose) for piece in CLAUSE_GAP.split(sentence)]


def _read(piece: str) -> Sentence:
    plain_words = piece.casefold().replace("can't", "can not").replace("cannot", "can not").replace("won't", "will not")
    tokens = [match[0] for match in islice(TOKEN.finditer(plain_words.replace("n't", " not")), MOST_WORDS)]
    denied: dict[str, str] = {}
    denials = 0
    for place, token in enumerate(tokens):
        following = tokens[place + 1 : place + 2]
        if token in DENIALS and following and following[0][0].isalnum() and following[0] not in NOT_DENYING:
            denials += 1
            apart = token in DENYING_PRONOUNS and following[0] in PREPOSITIONS
            if head := "" if apart else _head(tokens[place + 1 : place + 1 + HEAD_REACH]):
                denied[stem_of(head)] = head
        elif bare := _without_prefix(token):
            denials += 1
            denied[stem_of(bare)] = bare
    spoken = [token for token in tokens if token[0].isalnum()]
    stems = tuple(
        f"{token}." if token in SWITCHES and not following[0].isalnum() else stem_of(token)
        for token, following in pairwise([*tokens, "."])
        if token[0].isalnum()
    )
    content = frozenset(stem for stem, word in zip(stems, spoken, strict=True) if word not in FUNCTION_WORDS | DENIALS)
    every = set(spoken) | set(stems)
    return Sentence(tuple(spoken), stems, content, denied, denials, AVOIDANCE & every, bool(every & HEDGES))


def _head(following: Iterable[str]) -> str:
    """Return the first content word, or "" if punctuation comes first."""
    for token in following:
        if not token[0].isalnum() or token in DENIALS:
            return ""
        if token not in FUNCTION_WORDS:
            return token
    return ""


def _without_prefix(word: str) -> str:
    if word in NEGATED:
        return word[3 if word.startswith("dis") else 2 :]
    return word[2:] if word.startswith("un") and len(word) >= 6 and not NOT_NEGATED.match(word) else ""


def _turned(denying: Sequence[Sentence], other: Sequence[Sentence]) -> list[str]:
    """Return the words that one text denies and the matching sentences of the other affirm."""
    turned = []
    for stem, word in {stem: word for sentence in denying for stem, word in sentence.denied.items()}.items():
        mentions = [sentence for sentence in other if stem in sentence.content or stem in sentence.denied]
        if any(sentence.denials or sentence.avoids or sentence.hedges for sentence in mentions):
            continue
        denied = [sentence for sentence in denying if stem in sentence.denied and sentence.stems.count(stem) <= 1]
        affirmed = [sentence for sentence in denying if stem in sentence.content and stem not in sentence.denied]
        for mention in mentions:
            shared = max((_overlap(mention.content, each.content) for each in denied), default=0.0)
            if shared >= MIN_OVERLAP and all(_overlap(mention.content, each.content) < shared for each in affirmed):
                turned.append(word)
                break
    return turned


def _turned_around(sentence: Sentence, theirs: Sequence[Sentence]) -> tuple[str, str] | None:
    """Return a word of the reference and its opposite in the rewrite's sentence."""
    old = _matching(sentence, theirs)
    if (
        old is None
        or old.denials != sentence.denials
        or bool(old.avoids - SWITCHES) != bool(sentence.avoids - SWITCHES)
    ):
        return None
    new, lost = _by_pole(sentence.stems, set(old.stems)), _by_pole(old.stems, set(sentence.stems))
    flips = [
        (old.stems.index(lost[axis, 1 - pole][0]), sentence.stems.index(stems[0]))
        for (axis, pole), stems in new.items()
        if len(stems) > len(lost.get((axis, pole), ()))
        and len(lost.get((axis, 1 - pole), ())) > len(new.get((axis, 1 - pole), ()))
    ]
    if len(flips) % 2 == 0 or _changes_sides(old, sentence, *flips[0]):
        return None
    return old.words[flips[0][0]], sentence.words[flips[0][1]]


def _by_pole(stems: Iterable[str], known: set[str]) -> dict[tuple[int, int], list[str]]:
    """Return the unknown stems by their pair of opposites and their side of it."""
    by_pole: dict[tuple[int, int], list[str]] = {}
    for stem in stems:
        if stem not in known:
            for pole in _POLES.get(stem, ()):
                by_pole.setdefault(pole, []).append(stem)
    return by_pole


def _changes_sides(old: Sentence, new: Sentence, old_place: int, new_place: int) -> bool:
    """Return whether the words before one word are now after the other."""
    left, right = set(old.stems[:old_place]) & old.content, set(old.stems[old_place + 1 :]) & old.content
    before, after = set(new.stems[:new_place]) & new.content, set(new.stems[new_place + 1 :]) & new.content
    return len(left & after) + len(right & before) >= len(left & before) + len(right & after)


def _misattributed(sentence: Sentence, theirs: Sequence[Sentence], names: frozenset[str]) -> str:
    ours = sentence.content & names
    old = _matching(sentence, theirs, without=names)
    if old is None or not ours:
        return ""
    before = old.content & names
    if before and not before & ours:
        return f"states of {_some(sentence, ours)} what the reference states of {_some(old, before)}"
    if BY & set(sentence.words) != BY & set(old.words):
        return ""
    for verb in sorted(old.content & sentence.content - names):
        was, now = (_around(each, verb, names) for each in (old, sentence))
        if all(was) and was != now and was == now[::-1]:
            return f"has {_some(old, was[0])} and {_some(old, was[1])} change places"
    return ""


def _exchanged(sentence: Sentence, theirs: Sequence[Sentence], figures: frozenset[str]) -> str:
    """Return the fault of a sentence whose numbers all differ from those of the matching sentence, or ""."""
    old = _matching(sentence, theirs, without=figures)
    now = sentence.content & figures
    before = old.content & figures if old else frozenset()
    if not now or not before or now & before:
        return ""
    return f"states of {_some(sentence, now)} what the reference states of {_some(old or sentence, before)}"


def _around(sentence: Sentence, verb: str, names: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    place = sentence.stems.index(verb)
    return names & set(sentence.stems[:place]), names & set(sentence.stems[place + 1 :])


def _pivots(sentence: Sentence) -> dict[str, int]:
    """Return the places of "into", "to" after "from", and "than", by the word; "than" with the word before it."""
    pivots: dict[str, int] = {}
    for place, word in enumerate(sentence.words):
        if word == "into" or (word == "to" and "from" in sentence.words[:place]):
            pivots.setdefault(word, place)
        elif word == "than" and place:
            pivots.setdefault(f"{sentence.stems[place - 1]} than", place)
    return pivots


def _sides_swapped(sentence: Sentence, theirs: Sequence[Sentence]) -> str:
    """Return the fault of a sentence that exchanges the words before and after a pivot, or ""."""
    old = _matching(sentence, theirs)
    if old is None or old.denials != sentence.denials or _by_pole(sentence.stems, set(old.stems)):
        return ""
    was, now = _pivots(old), _pivots(sentence)
    for pivot in [pivot for pivot in was if pivot in now]:
        (left, right), (new_left, new_right) = _halves(old, was[pivot]), _halves(sentence, now[pivot])
        if not right or not new_right or right[0] in new_right or new_right[0] in right:
            continue
        if right[0] in new_left and new_right[0] in left:
            return f'{new_right[0]!r} after "{pivot}" and {right[0]!r} before it, unlike the reference'
    return ""


def _halves(sentence: Sentence, place: int) -> tuple[list[str], list[str]]:
    """Return the content words before and after a place."""
    left, right = sentence.stems[:place], sentence.stems[place + 1 :]
    return [stem for stem in left if stem in sentence.content], [stem for stem in right if stem in sentence.content]


def _some(sentence: Sentence, names: frozenset[str]) -> str:
    some = [word for word, stem in zip(sentence.words, sentence.stems, strict=True) if stem in names]
    return " ".join(dict.fromkeys(some[:4]))


def _matching(sentence: Sentence, theirs: Sequence[Sentence], without: frozenset[str] = frozenset()) -> Sentence | None:
    """Return the matching sentence, which shares most content words and more than any other sentence, or None."""
    shares = [_overlap(sentence.content - without, old.content - without) for old in theirs]
    best = max(shares, default=0.0)
    return theirs[shares.index(best)] if best >= MIN_OVERLAP and shares.count(best) == 1 else None


def _overlap(ours: frozenset[str], theirs: frozenset[str]) -> float:
    """Return the share of the smaller set that is in the other, or 0 if they share fewer than `MIN_SHARED` words."""
    shared = len(ours & theirs)
    return shared / min(len(ours), len(theirs)) if shared >= MIN_SHARED else 0.0


def _stems(text: str) -> set[str]:
    return {stem_of(word) for word in words(text)}


def stem_of(word: str) -> str:
    """Return a word without its English ending. The rule is crude: the stem of "after" is "aft"."""
    bare = word.removesuffix("'s")
    for suffix in SUFFIXES:
        if bare.endswith(suffix) and not bare.endswith("ss") and len(bare) - len(suffix) >= 3:
            bare = bare.removesuffix(suffix)
            break
    if len(bare) > 3 and bare[-1] == bare[-2] and bare[-1] not in "ls":
        bare = bare[:-1]
    return f"{bare[:-1]}i" if bare.endswith("y") else bare


def _poles() -> dict[str, set[tuple[int, int]]]:
    """Return, by stem, the numbers of its pairs of opposites, each with its side."""
    poles: dict[str, set[tuple[int, int]]] = {}
    for axis, line in enumerate(OPPOSITES.strip().split("\n")):
        for pole, side in enumerate(line.split("|")):
            for word in side.split():
                poles.setdefault(stem_of(word), set()).add((axis, pole))
    return poles


_POLES = _poles()
