"""Whether a rewrite still claims what its reference claims: denials, opposites, who did it, which of the choices.

Sentences of the two texts are aligned by the content words they share, and only what both say of the same words is
compared: a sentence told anew in other words goes unjudged, so that these checks miss much and reject little. English only.
Words are compared by a crude stem. Of a text longer than `MOST_SENTENCES` the rest is not looked at, which keeps the
comparison of every sentence with every other linear in the text.
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
"""Sentences compared, of each text; an answer of 1,024 tokens has fewer as a rule."""
MOST_WORDS = 100
"""Words looked at of each sentence."""
MIN_OVERLAP = 0.5
"""Share of the shorter sentence's content words that the other holds where both are about the same."""
MIN_SHARED = 2
"""Content words that two sentences about the same share at least."""
HEAD_REACH = 4
"""How many words after "not" the word that it denies may stand."""
DENIALS = frozenset(words("not never no none nobody nothing neither nor without unable impossible"))
"""Words that deny the next content word; "cannot" and "n't" are read as "not"."""
DENYING_PRONOUNS = frozenset(words("none nobody nothing"))
"""Before a preposition these deny no word: "none of it at noon"."""
PREPOSITIONS = frozenset(words("of in on at to for from by with about"))
NOT_DENYING = frozenset(words("only just merely simply more less fewer later earlier sooner other doubt matter wonder"))
"""After "not" or "no" these make an idiom ("not only", "no later than") that denies nothing."""
AVOIDANCE = frozenset(
    words("avoid refrain refuse fail lack prevent instead rather exclude except forbid prohibit off out unless without")
)
"""Words that may say the same as a denial ("avoid it" for "do not use it")."""
SWITCHES = frozenset(words("on off"))
"""Opposites where they end a clause ("turn it on"), prepositions elsewhere."""
HEDGES = frozenset(
    words(
        "only just few little rarely hardly seldom barely some part partly partially until stop keep hard difficult false wrong "
        "less free leave leaves except but far too"
    )
)
"""Words that may say part of a denial ("removes only part" for "does not remove all")."""
NEGATED = frozenset(
    words(
        "inaccurate inactive inadequate incapable incomplete inconsistent incorrect indirect ineffective inefficient "
        "inexpensive inflexible insecure insufficient invalid invisible illegal illogical impatient imperfect impolite "
        "impractical improper irregular irrelevant irreversible dishonest disagree disallow disapprove dislike"
    )
)
"""Words that deny what follows their prefix; so does any that begins with "un", but for those of `NOT_NEGATED`."""
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
"""Pairs of opposites, with words that mean the same on each side; "on." is one that ends a clause."""
CHOICE = re.compile(
    r"(?<![\w'\"-])((?:['\"]?\w++['\"]?, (?:an? )?){0,8})['\"]?(\w++)['\"]?,? or (?:an? |the )?['\"]?(\w++)",
    re.IGNORECASE,
)
LISTED = 3
"""So many things that the reference sorts are worth a comparison."""
CLAUSE_GAP = re.compile(r"(?<=;)\s++")
TOKEN = re.compile(rf"{WORD.pattern}|[,:()–—]")
SUFFIXES = ("ingly", "edly", "ing", "est", "ed", "er", "es", "ly", "s", "e")
BY = frozenset(words("by was were is are been being"))
"""Words of the passive voice, in which the names change places."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """What the checks look at in one sentence."""

    words: tuple[str, ...]
    stems: tuple[str, ...]
    content: frozenset[str]
    """Stems of the words that are no function words."""
    denied: dict[str, str]
    """Stem and word of what is denied in it."""
    denials: int
    avoids: frozenset[str]
    hedges: bool


def keeps_denials(reference: str, rewrite: str) -> Verdict:
    """`negation`: what one text denies ("should not charge", "unsafe") the other does not affirm, nor the other way round.

    Seen where the denied word stands undenied in a sentence about the same, and nowhere denied or hedged.
    """
    theirs, ours = sentences(reference), sentences(rewrite)
    if not any(sentence.denied for sentence in [*theirs, *ours]):
        return not_applicable("negation", "neither text denies anything")
    lost = [f"affirms {word!r}, which the reference denies" for word in _turned(theirs, ours)]
    new = [f"denies {word!r}, which the reference affirms" for word in _turned(ours, theirs)]
    faults = lost + new
    evidence = f"the rewrite {faults[0]}" if faults else "no denial is dropped or brought in"
    return verdict("negation", not faults, evidence, len(faults), 0)


def keeps_direction(reference: str, rewrite: str) -> Verdict:
    """`opposites`: no sentence says "increases" where the reference says "decreases" of the same words.

    A second opposite or a denial in the sentence, or changed places ("A before B", "B after A"), may turn it back again.
    """
    theirs, ours = sentences(reference), sentences(rewrite)
    if not any(stem in _POLES for sentence in theirs for stem in sentence.stems):
        return not_applicable("opposites", "the reference has no word with a known opposite")
    turned = [fault for sentence in ours if (fault := _turned_around(sentence, theirs))]
    evidence = "no word is turned into its opposite"
    if turned:
        evidence = f'the rewrite says "{turned[0][1]}" where the reference says "{turned[0][0]}"'
    return verdict("opposites", not turned, evidence, len(turned), 0)


def keeps_roles(reference: str, rewrite: str) -> Verdict:
    """`roles`: what the reference says of one name or number, the rewrite does not say of another of them.

    Seen where two sentences about the same have different names, or different numbers of four digits (years mostly; smaller
    ones recur too often), or the same two names in another order around the same word.
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
    evidence = f"the rewrite {faults[0]}" if faults else "no name or number takes another's place"
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
    """`choice`: of the words between which the instruction asks to choose ("fruit or vegetable"), the same one returns.

    Only its first paragraph is read: what follows is mostly a text to work on.
    """
    ours, theirs = _stems(rewrite), _stems(reference)
    for match in CHOICE.finditer(plain(instruction.lstrip().split("\n\n")[0])):
        offered = {stem_of(word): word for word in words(" ".join(match.groups(""))) if word not in FUNCTION_WORDS}
        chosen, now = offered.keys() & theirs, offered.keys() & ours
        if len(offered) >= 2 and len(chosen) == 1:
            (old,) = chosen
            new = ", ".join(offered[stem] for stem in sorted(now)) or "none of the choices"
            same = old in now or not now
            return verdict("choice", same, f"the rewrite says {new}, the reference {offered[old]}")
    return not_applicable("choice", "the reference does not choose one of several words of the instruction")


def keeps_groups(instruction: str, reference: str, rewrite: str) -> Verdict:
    """`groups`: things that the instruction lists ("cats, sheep, whales") return, those of one sentence or line in one again.

    By the last word of each. Groups are compared only where both texts have two of them: all may go into one sentence.
    """
    for listed in series(plain(instruction.lstrip().split("\n\n")[0])):
        heads = dict.fromkeys(stem_of(words(item)[-1]) for item in listed if words(item))
        old, new = (_places(text, heads) for text in (reference, rewrite))
        told = [head for head in heads if len(old[head]) == 1]
        if len(told) < LISTED:
            continue
        lost = [head for head in told if not new[head]]
        both = [head for head in told if len(new[head]) == 1]
        moved: list[str] = []
        if min(len(set().union(*(places[head] for head in both))) for places in (old, new)) >= 2:
            moved = [a for a in both if any((old[a] == old[b]) != (new[a] == new[b]) for b in both)]
        gone, apart = (", ".join(stems[:5]) or "none" for stems in (lost, moved))
        evidence = f"of the things to be sorted the rewrite loses {gone}, and {apart} changed groups"
        return verdict("groups", not lost and not moved, evidence, len(lost) + len(moved), 0)
    return not_applicable("groups", "the reference does not sort things that the instruction lists")


def _places(text: str, heads: Collection[str]) -> dict[str, set[int]]:
    """Return the numbers of the sentences or lines in which each word stands, by its stem."""
    found: dict[str, set[int]] = {head: set() for head in heads}
    for number, piece in enumerate(_pieces(fences(text).prose)):
        for stem in found.keys() & _stems(piece):
            found[stem].add(number)
    return found


@lru_cache(maxsize=16)
def sentences(text: str) -> tuple[Sentence, ...]:
    """Return the sentences of a text outside code blocks, questions left out; four checks ask for those of both texts."""
    prose = fences(text).prose.replace("’", "'")
    statements = (piece for piece in _pieces(prose) if not piece.endswith("?"))
    return tuple(_read(piece) for piece in islice(statements, MOST_SENTENCES))


def _pieces(prose: str) -> list[str]:
    """Return the sentences of each line, divided at semicolons too."""
    return [piece for sentence in sentences_of_lines(prose) for piece in CLAUSE_GAP.split(sentence)]


def _read(piece: str) -> Sentence:
    said = piece.casefold().replace("can't", "can not").replace("cannot", "can not").replace("won't", "will not")
    tokens = [match[0] for match in islice(TOKEN.finditer(said.replace("n't", " not")), MOST_WORDS)]
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
    found = set(spoken) | set(stems)
    return Sentence(tuple(spoken), stems, content, denied, denials, AVOIDANCE & found, bool(found & HEDGES))


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
    """Return the words that one text denies and the other affirms of the same; a word that it denies too is none."""
    turned = []
    for stem, word in {stem: word for sentence in denying for stem, word in sentence.denied.items()}.items():
        said = [found for found in other if stem in found.content or stem in found.denied]
        if any(found.denials or found.avoids or found.hedges for found in said):
            continue
        denied = [found for found in denying if stem in found.denied and found.stems.count(stem) <= 1]
        affirmed = [found for found in denying if stem in found.content and stem not in found.denied]
        for found in said:
            shared = max((_overlap(found.content, also.content) for also in denied), default=0.0)
            if shared >= MIN_OVERLAP and all(_overlap(found.content, also.content) < shared for also in affirmed):
                turned.append(word)
                break
    return turned


def _turned_around(sentence: Sentence, theirs: Sequence[Sentence]) -> tuple[str, str] | None:
    """Return a word of the reference and its opposite in the rewrite's sentence."""
    old = _like(sentence, theirs)
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
    """Return, by pair of opposites and side of it, the stems that are not known."""
    found: dict[tuple[int, int], list[str]] = {}
    for stem in stems:
        if stem not in known:
            for pole in _POLES.get(stem, ()):
                found.setdefault(pole, []).append(stem)
    return found


def _changes_sides(old: Sentence, new: Sentence, old_place: int, new_place: int) -> bool:
    """Tell whether what stood before one word now stands after the other."""
    left, right = set(old.stems[:old_place]) & old.content, set(old.stems[old_place + 1 :]) & old.content
    before, after = set(new.stems[:new_place]) & new.content, set(new.stems[new_place + 1 :]) & new.content
    return len(left & after) + len(right & before) >= len(left & before) + len(right & after)


def _misattributed(sentence: Sentence, theirs: Sequence[Sentence], names: frozenset[str]) -> str:
    ours = sentence.content & names
    old = _like(sentence, theirs, without=names)
    if old is None or not ours:
        return ""
    before = old.content & names
    if before and not before & ours:
        return f"says of {_some(sentence, ours)} what the reference says of {_some(old, before)}"
    if BY & set(sentence.words) != BY & set(old.words):
        return ""
    for verb in sorted(old.content & sentence.content - names):
        was, now = (_around(found, verb, names) for found in (old, sentence))
        if all(was) and was != now and was == now[::-1]:
            return f"has {_some(old, was[0])} and {_some(old, was[1])} change places"
    return ""


def _exchanged(sentence: Sentence, theirs: Sequence[Sentence], figures: frozenset[str]) -> str:
    """Return what is wrong with the numbers of a sentence, all of them others of the reference's than in the like one."""
    old = _like(sentence, theirs, without=figures)
    now = sentence.content & figures
    before = old.content & figures if old else frozenset()
    if not now or not before or now & before:
        return ""
    return f"says of {_some(sentence, now)} what the reference says of {_some(old or sentence, before)}"


def _around(sentence: Sentence, verb: str, names: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    place = sentence.stems.index(verb)
    return names & set(sentence.stems[:place]), names & set(sentence.stems[place + 1 :])


def _pivots(sentence: Sentence) -> dict[str, int]:
    """Return where the words stand that have an unlike left and right, by the word, for "than" with that before it."""
    found: dict[str, int] = {}
    for place, word in enumerate(sentence.words):
        if word == "into" or (word == "to" and "from" in sentence.words[:place]):
            found.setdefault(word, place)
        elif word == "than" and place:
            found.setdefault(f"{sentence.stems[place - 1]} than", place)
    return found


def _sides_swapped(sentence: Sentence, theirs: Sequence[Sentence]) -> str:
    """Return what follows a pivot and stood before it, where what followed it stands before it now."""
    old = _like(sentence, theirs)
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
    found = [word for word, stem in zip(sentence.words, sentence.stems, strict=True) if stem in names]
    return " ".join(dict.fromkeys(found[:4]))


def _like(sentence: Sentence, theirs: Sequence[Sentence], without: frozenset[str] = frozenset()) -> Sentence | None:
    """Return the sentence about the same, or None: the one that shares most, and no other one as much."""
    shares = [_overlap(sentence.content - without, old.content - without) for old in theirs]
    best = max(shares, default=0.0)
    return theirs[shares.index(best)] if best >= MIN_OVERLAP and shares.count(best) == 1 else None


def _overlap(ours: frozenset[str], theirs: frozenset[str]) -> float:
    """Return the share of the smaller set that the other holds, 0 where that is too few words to tell."""
    shared = len(ours & theirs)
    return shared / min(len(ours), len(theirs)) if shared >= MIN_SHARED else 0.0


def _stems(text: str) -> set[str]:
    return {stem_of(word) for word in words(text)}


def stem_of(word: str) -> str:
    """Return a word without its English ending, so crudely that "after" is "aft"; equal words have equal stems."""
    bare = word.removesuffix("'s")
    for suffix in SUFFIXES:
        if bare.endswith(suffix) and not bare.endswith("ss") and len(bare) - len(suffix) >= 3:
            bare = bare.removesuffix(suffix)
            break
    if len(bare) > 3 and bare[-1] == bare[-2] and bare[-1] not in "ls":
        bare = bare[:-1]
    return f"{bare[:-1]}i" if bare.endswith("y") else bare


def _poles() -> dict[str, set[tuple[int, int]]]:
    """Return, by stem, the numbers of its pairs of opposites, each with the side that it is on."""
    found: dict[str, set[tuple[int, int]]] = {}
    for axis, line in enumerate(OPPOSITES.strip().split("\n")):
        for pole, side in enumerate(line.split("|")):
            for word in side.split():
                found.setdefault(stem_of(word), set()).add((axis, pole))
    return found


_POLES = _poles()
