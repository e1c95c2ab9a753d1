"""
Orders in a lesson that are meant for the system around it and not for the task: prompt injection.

A text is read in several views, so that look-alike letters, digits for letters, spaced-out words and hidden
characters change nothing. What a lesson only *mentions* ("if the message tells you to ignore your instructions,
still classify it") is no order: `_mentioned` says when.
"""

import base64
import binascii
import codecs
import re
import unicodedata
from collections.abc import Iterator

from edgewise.experience.guard.cheats import CHEATS
from edgewise.experience.guard.injection_patterns import ENGLISH, MARKS, OLD
from edgewise.experience.guard.languages import OTHER, UNSPACED
from edgewise.experience.guard.private_data import PLACEHOLDER

_MENTION = re.compile(
    r"\b(if|when|whenever|even|though|although|messages?|texts?|inputs?|users?|tickets?|mails?|emails?|"
    r"reviews?|questions?|rows?|someone|"
    r"anyone|customers?|senders?|attempts?|requests?|phrases?|sentences?|words?|orders|strings?|attackers?|"
    r"people|lines?|content|anything|injections?|attacks?|jailbreaks?|tricks?|"
    r"something|documents?|instructions?|wenn|falls|si|cuando)\b[^.!?\n]{0,80}?\b(tell|tells|telling|"
    r"told|ask|asks|asking|asked|say|says|saying|"
    r"want|wants|order|orders|ordering|demand|demands|urge|urges|instruct|instructs|instructing|try|tries|"
    r"trying|attempt|attempts|attempting|"
    r"request|requests|contain|contains|containing|read|reads|reading|like|such as|claim|claims|"
    r"command|begin with|begins with|start with|starts with|phrases|"
    r"commands|pushes|sagt|verlangt|"
    r"fordert|bittet|dit|demande|dice|pide)\b(\W{1,2}(you|the model|the assistant|us|it|them|me|the agent|"
    r"an ai|anyone))?"
    r"(\W{1,2}(to|that|simply|just|and))?[\s\"'“”‘’«„:,(]{0,4}$"
    r"|\b(requests?|attempts?|orders|instructions?|commands?|demands?|wishes|prompts?)\W{1,2}to\W{1,2}$"
    r"|\b(attempts?|injections?|phrases?|messages?|texts?|words|sentences?|attacks?)\W{0,2}[\"'“‘„«]$"
)
_NEGATED = re.compile(
    r"\b(trust|believe|fall for) (a|an|the|any|such)?\W{0,3}$|\b(never|not|n t|don'?t|won'?t|cannot|"
    r"can'?t|refuse to|instead of|rather than|without|avoid|decline "
    r"to|no)"
    r"(\W{1,2}(simply|just|ever|blindly|let it|try to|be made to|be tricked into))?\W{1,3}$"
)
# A mark of a format or a command that is quoted or warned of: "escape <script>", "such as 'system: ...'".
_QUOTED_MARK = re.compile(
    r"(\b(?i:never|not|n't|avoid|escape|strip|remove|block|reject|refuse|rather than|instead of|"
    r"unlike|without|beware of)"
    r"\b(?:[^.!?\n]|\.(?! ?[A-Z\n])){0,40}|\b(?i:such as|like|e\.g\.|for example|for instance|says?|"
    r"beginning with|labelled|"
    r"named|wraps?|tags?|tokens?|the|with|of)\b[:,]?\s{0,2}[\"'`“‘]{1,2}[^\"'`\n]{0,10})$"
)
_OBEYED = re.compile(
    r"\b(comply|obey|do so|do it|do that|follow (it|them|the)|agree|accept|go along|do as|then do)\b"
)
_REFUSED = re.compile(r"\b(not|never|n.t|refuse|without|decline)\W{1,2}(\w+\W{1,2}){0,2}$")
# "instructions inside the ticket": those of the input, which a lesson may well call void.
_OF_INPUT = re.compile(
    r"^(\W{1,2}(that|which|are|is|were|appear|appears|stand|hidden|embedded|contained|found|given|written|"
    r"quoted|inserted|placed|"
    r"addressed)){0,4}\W{1,2}(in|inside|within|from|by|of|that|which|on|at|come from)\W{1,2}((?!and\b|"
    r"then\b)[\w-]{1,20}\W{1,2}){0,4}?"
    r"(messages?|tickets?|texts?|e-?mails?|mails?|inputs?|reviews?|documents?|customers?|senders?|"
    r"articles?|passages?|quotes?|"
    r"signatures?|footers?|body|posts?|comments?|pages?|logs?|attachments?|invoices?|html|code|"
    r"transcripts?|data|rows?|contents?)\b"
)

_CONFUSABLE = str.maketrans(
    {
        look: letter
        for letter, looks in (
            line.split("=")
            for line in (
                "a=аαɑᴀ b=вβʙь c=сϲᴄ d=ԁđᴅ e=еεєᴇ g=ɡցɢ h=нһʜ i=іιıɪ j=јյᴊ k=кκᴋ l=ӏłʟ m=мᴍ n=пηոɴ "
                "o=оοօøᴏ p=рρᴘ "
                "q=ԛ r=гʀ s=ѕꜱ t=тτᴛ u=υսᴜ v=νѵᴠ w=ωԝшᴡ x=хχ y=уγʏ z=ᴢ"
            ).split()
        )
        for look in looks
    }
)
_LEET = str.maketrans("013457@$!|", "oieastasil")
_HIDDEN = re.compile(
    "[\u200b\u2060-\u2064\u202a-\u202e\u2066-\u2069\ufeff\u115f\u1160\u3164\uffa0\u180e\U000e0100-\U000e01ef\ufff9-\ufffb]"
    "|(?<!\U0001f3f4)(?<![\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
    "|[ -~\u00c0-\u04ff][\u200c\u200d]|[\u200c\u200d][ -~\u00c0-\u04ff]"
    "|[\ufe00-\ufe0f]{2}|[\x00-\x08\x0b\x0e-\x1f\x7f]"
)
_STRIP = re.compile(
    "[\u0300-\u036f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufe00-\ufe0f\U000e0000-\U000e01ef\x00-\x08]"
)
_DIRECTION = re.compile("[\u200e\u200f\u061c]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_SPACED = re.compile(r"(?<!\w)(?:[^\W_][ .\-_*|/]{1,3}){5,}[^\W_](?!\w)")
_LONG_SPACED = 300
_ORDERLY = re.compile(r"\b(ignore|disregard|instructions?|prompt|reveal|system|previous|password|answer)\b")
_MIXED = re.compile(r"(?<![\w@$!|])[^\W\d@$!|]{0,30}[013457@$!|][\w@$!|]*")
_BLOB = re.compile(
    r"(?<![\w+/=-])(?:[A-Za-z0-9+/_-]{24,}={0,2}|(?:(?:\\x|%|0x)[0-9a-fA-F]{2}[ ,]?){8,}|(?:[0-9a-fA-F]{2} "
    r"){11,}[0-9a-fA-F]{2}"
    r"|(?:[01]{8} ){5,}[01]{8})(?![\w+/=-])"
)
_LONG_BLOB = 120


def orders(text: str) -> Iterator[str]:
    """What is wrong with a text as a lesson, one phrase a rule: "tells the model to ...", "holds ..."."""
    if hidden(text):
        yield "holds hidden characters"
    if any(_unreadable(match[0]) for match in _BLOB.finditer(text)):
        yield "holds a stretch of encoded text that people cannot read"
    views = _views(text)
    marked = unicodedata.normalize("NFKC", _STRIP.sub("", text))
    yield from (reason for reason, rule in _MARK_RULES if _marked(rule, marked))
    spaced = ["".join(c for c in match[0] if c.isalnum()) for match in _SPACED.finditer(views[0])]
    if any(len(run) > _LONG_SPACED for run in spaced):
        yield "spells out whole sentences letter by letter"
        return
    for reason, rule, compact in _RULES:
        if any(_ordered(rule, view) for view in views) or any(compact.search(run) for run in spaced):
            yield reason


def hidden(text: str) -> bool:
    """Whether a text holds characters that people do not see and models do."""
    odd_direction = _DIRECTION.search(text) and not _RIGHT_TO_LEFT.search(text)
    return bool(_HIDDEN.search(text) or odd_direction)


def fold(text: str) -> str:
    """A text without accents, hidden characters and variants of letters, in lower case."""
    bare = _STRIP.sub("", unicodedata.normalize("NFKD", text)).casefold()
    return unicodedata.normalize("NFC", bare)


def _views(text: str) -> list[str]:
    """The readings of a text: folded, with look-alikes as Latin letters, digits as letters, backwards, and in rot13."""
    plain = fold(text)
    latin = plain.translate(_CONFUSABLE)
    letters = _MIXED.sub(lambda match: _as_letters(match[0]), latin)
    turned = (latin[::-1], codecs.encode(latin, "rot13"))
    return list(dict.fromkeys([plain, latin, letters, *(view for view in turned if _ORDERLY.search(view))]))


def _as_letters(word: str) -> str:
    """A word in which digits stand for letters, with those letters; plain numbers stay."""
    return word.translate(_LEET) if re.search(r"[^\W\d_]", word) else word


def _ordered(rule: re.Pattern[str], view: str) -> bool:
    """Whether a rule's order is given in a view, and not only mentioned."""
    return any(not _mentioned(view, *match.span()) for match in rule.finditer(view))


def _marked(rule: re.Pattern[str], text: str) -> bool:
    """Whether a mark stands in a text other than as an example or as something to keep away from."""
    starts = (match.start() + (match[0][0] in "\"'`") for match in rule.finditer(text))
    return any(not _QUOTED_MARK.search(text[max(0, at - 60) : at]) for at in starts)


def _mentioned(view: str, start: int, end: int) -> bool:
    """Whether words are forbidden, reported or about the input rather than ordered."""
    before, after = view[max(0, start - 140) : start], view[end : end + 100]
    if _NEGATED.search(before):
        return True
    if _MENTION.search(before):
        obeyed = _OBEYED.search(after)
        return not obeyed or bool(_REFUSED.search(after[: obeyed.start()]))
    plain_drop = re.search(
        r"(instructions|directives|commands|rules|guidelines|prompts?|lessons)$", view[start:end]
    )
    old = re.search(rf"\b(your|my|our|system|developer|safety|{OLD[1:-1]})\b", view[start:end])
    return bool(plain_drop and not old and _OF_INPUT.search(after))


def _unreadable(blob: str) -> bool:
    """Whether a run of letters and digits is encoded text, or too long to be anything that people read."""
    if not re.search(r"\d|[a-z][A-Z]|[+/=]", blob) or PLACEHOLDER.fullmatch(blob):
        return False
    if re.match(r"(\\x|%|0x)|[0-9a-fA-F]{2} |[01]{8} ", blob):
        return True
    dense = not re.search(r"[-_/][a-z]{0,12}[-_/]", blob) and len(set(blob)) > 5
    return (dense and len(blob) >= _LONG_BLOB) or _decodes(blob)


def _decodes(blob: str) -> bool:
    """Whether base64 or hex stands for words."""
    for decode in (
        bytes.fromhex,
        lambda x: base64.b64decode(x.replace("-", "+").replace("_", "/") + "=" * (-len(x) % 4)),
    ):
        try:
            said = decode(blob)
        except (ValueError, binascii.Error):
            continue
        if len(said) >= 8 and sum(32 <= c < 127 for c in said) > 0.95 * len(said):
            return True
    return False


def _rule(pattern: str, gap: str) -> re.Pattern[str]:
    """A table's pattern with its spaces as gaps and its brackets grouping only."""
    return re.compile(re.sub(r"(?<!\\)\((?!\?)", "(?:", pattern).replace(" ", gap))


def _rules() -> Iterator[tuple[str, re.Pattern[str], re.Pattern[str]]]:
    other = ("tells the model, in another language, to drop its instructions or to play another part", OTHER)
    for reason, pattern in (*ENGLISH, *CHEATS, other):
        loose = _rule(f"({pattern})", r"(?:[\W_]{0,4})")
        yield reason, _rule(rf"(?<!\w)({pattern})(?!\w)", r"(?:[\W_]{1,4})"), loose
    unspaced = _rule(f"({UNSPACED})", r"(?:\s{0,3})")
    yield other[0], unspaced, unspaced


_RULES = tuple(_rules())
_MARK_RULES = tuple((reason, re.compile(pattern, re.IGNORECASE)) for reason, pattern in MARKS)
