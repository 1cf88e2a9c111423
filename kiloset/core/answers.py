r"""Patterns that show what is wrong with a model's answer: refusals, self-descriptions, prompt scaffolding, cut endings.

The patterns are in English. They are strings that both Python's `re` and Polars (the regex crate of Rust) compile to the same
matches, so they use neither look-around nor `\Z`.
"""

import re

MEDIA = r"images?|pictures?|photos?|photographs?|videos?|audio|recordings?|files?|graphs?|maps?|diagrams?|charts?|attachments?|screenshots?"
TEXTS = r"texts?|passages?|sentences?|paragraphs?|lists?|articles?|story|stories|data|code|snippets?|functions?|e-?mails?|messages?|words?|poems?|songs?|links?|tables?|reviews?|statements?|conversations?|numbers|items|facts|notes?"

_APOLOGY = r"(?:i['’]m |i am )?(?:really |very |so |truly )?sorry|i apologi[sz]e|my apologies|unfortunately"
_MODEL = r"(?:ai|artificial intelligence|(?:large )?language model)"
_CANNOT = r"(?:i (?:cannot|can['’]t|can not|will not|won['’]t|am (?:unable|not able|not allowed) to)|i['’]m (?:unable|not able|not allowed) to)"

REFUSAL = (
    rf"(?i)^\W*(?:(?:(?:{_APOLOGY})\b[\w ]{{0,40}}[,.:;!]? ?(?:but )?)?(?:as an? {_MODEL}\b[\w ]{{0,40}},? ?)?"
    rf"(?:{_CANNOT} (?:assist|help (?:you|with)|provide|comply|fulfil|complete (?:this|that|the|your)|answer (?:this|that|the|your)"
    r"|generate|create|produce|engage in|offer|discuss|respond to|write|translate|summari[sz]e"
    rf"|share (?:any|the|your|that|this|personal)|(?:see|view|open|access|process) (?:(?:any|the|your|that|this) )?(?:{MEDIA}|{TEXTS})\b)"
    r"|i do(?:n['’]t| not) have (?:access to (?:the|your|any|real|external|current)|the (?:ability|capability)|enough (?:context|information)))"
    r"|i must (?:respectfully )?decline\b)"
)
"""An answer that begins by refusing its task."""
REFUSAL_AS_MODEL = (
    rf"{REFUSAL}|^\W*as an? {_MODEL}\b[\w ]{{0,40}},? ?i (?:do(?:n['’]t| not)|cannot|can['’]t|am (?:not|unable))\b"
)
"""`REFUSAL`, or an answer that begins with what its writer, as a model, cannot do; the rules call that `SELF_DESCRIPTION`."""
SELF_DESCRIPTION = (
    r"(?i)\bas an? (?:[\w-]+ ){0,2}ai(?: language model\b|(?: model| assistant)?,? i\b)|\bas a (?:large )?language model,? (?:i\b|(?:trained|developed|created|made) by\b)"
    r"|\bi(?:['’]m| am) not an? (?:[\w-]+ ){0,3}ai(?:[,.;:!)]|\s*$)|\bi(?:['’]m| am) (?:a chatbot |an? (?:ai )?assistant )?designed to (?:assist|help|provide|be)\b"
    r"|\bi(?:['’]m| am) (?:just |only )?an? (?:(?:ai|artificial intelligence) (?:language model|model|assistant|chatbot|program)\b|(?:large )?language model\b"
    r"|(?:ai|artificial intelligence)(?:[,.;:!)]|\s*$))|\b(?:i(?:['’]m| am)|my name is|named) (?:smollm|qwen|chatgpt)\b|trained by hugging face\b"
    r"|\bi(?:['’]m| am) [^.!?\n]{0,60}\b(?:created|developed|trained|made) by (?:alibaba|anthropic|deepseek|google|meta|mistral|openai)\b"
)
"""A model that describes itself."""
TEMPLATE = (
    r"<\|[a-z_]{2,30}\|>|\[/?INST\]|<</?SYS>>|</?think>|</s>\s*$|<(?:start|end)_of_turn>"
    r"|(?:^|\n)###\s*(?:Instruction|Response|Input|Output):"
)
"""Tokens and headings of a chat template."""
CUT = (
    r"[,:]\s*$|(?:^|[^:;=\-])[(\[{]\s*$|[a-z]-\s*$|\n[ \t]*[-*•]\s*$"
    r"|[a-z],? (?:and|or|the|an?|because|your|my|our|their|its|such as)\s*$"
)
"""The end of a text that breaks off in the middle of a sentence."""
CUT_OR_PREPOSITION = rf"{CUT}|[a-z] (?:to|of|with|from|for)\s*$"
"""`CUT`, or a preposition, which seldom ends a sentence ("what friends are for")."""
SIGN_OFF = r"(?i)\n\W*(?:thank|many thanks|sincerely|regards|best|cheers|yours|love|warm|kind|respectfully|with|take care|all the)[^\n]{0,30},\s*$"
"""The end of a letter without a name, which is not cut."""

_REFUSAL_OPENING = re.compile(
    rf"{REFUSAL}|^\W*(?:(?:i['’]m|i am) (?:really |very |so )?sorry,? but|as an? {_MODEL}\b|i(?:['’]m| am) (?:just |only )?an? {_MODEL}\b"
    rf"|(?:(?:sorry|unfortunately|i apologi[sz]e),? (?:but )?)(?:{_CANNOT}|i(?:['’]m| am) (?:unable|not able)\b)"
    r"|i(?:['’]m| am) (?:unable|not able) to|i (?:cannot|can not|can['’]t|won['’]t|will not) (?:help|assist|answer|do|give|share|support)"
    r"|i (?:do not|don['’]t) (?:have (?:personal|the ability|feelings|access)|feel comfortable))"
)


def begins_like_refusal(text: str) -> bool:
    """Return whether an answer begins like a refusal, in a wider sense than `REFUSAL`: a measure of style, not a fault.

    An answer that apologises and then helps counts. A refusal that comes later, in other words or in another language, and
    an answer that evades, do not.
    """
    return _REFUSAL_OPENING.match(" ".join(text.split())) is not None
