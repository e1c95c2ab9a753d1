"""
What a lesson must not carry although the rest of it may stay: secrets and personal data, each with its placeholder.

detect-secrets knows the key formats of many providers; its guesses from entropy and keywords fire on plain words, so
they are left out and replaced by stricter ones here. Phone numbers have their own patterns: the phonenumbers library
needs a country to read national numbers, and passes over numbers that are not assigned today.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate
from typing import Literal, NamedTuple

Kind = Literal["secret", "personal"]
PLACEHOLDER = re.compile(r"\[(?:secret|email|phone|card|iban|id|ip|address|date)\]")

PROVIDERS = (
    "aws.AWSKeyDetector",
    "azure_storage_key.AzureStorageKeyDetector",
    "discord.DiscordBotTokenDetector",
    "github_token.GitHubTokenDetector",
    "gitlab_token.GitLabTokenDetector",
    "mailchimp.MailchimpDetector",
    "openai.OpenAIDetector",
    "pypi_token.PypiTokenDetector",
    "sendgrid.SendGridDetector",
    "slack.SlackDetector",
    "square_oauth.SquareOAuthDetector",
    "stripe.StripeDetector",
    "telegram_token.TelegramBotTokenDetector",
    "twilio.TwilioKeyDetector",
)

_NAME = (
    r"pass(?:word|wd|phrase|code)?|pwd|pin(?: ?(?:code|number))?|secret(?:[ _-]?key)?|api[ _-]?(?:key|"
    r"token|secret)|"
    r"(?:access|auth|client|private|signing|encryption|license|account|session|refresh|bot|deploy|service)"
    r"[ _-]?(?:key|token|secret)|"
    r"token|credentials?|kennwort|passwort|zugangscode|mot de passe|contrase[nñ]a|clave|senha|wachtwoord|"
    r"密码|密碼|パスワード"
)


class Private(NamedTuple):
    """A stretch of text to take out, from `start` to `end`, and what stands there then."""

    start: int
    end: int
    kind: Kind
    placeholder: str
    what: str


class _Rule(NamedTuple):
    """Where `pattern` matches and `holds` agrees, its group `it` (or all of it) is private."""

    kind: Kind
    placeholder: str
    what: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool]


def _always(found: str) -> bool:
    return True


def _digits(found: str) -> str:
    return re.sub(r"\D", "", found)


def _several(least: int, most: int = 99) -> Callable[[str], bool]:
    """Whether a text has so many digits, and not all the same."""
    return lambda found: least <= len(_digits(found)) <= most and len(set(_digits(found))) > 1


def _mixed(found: str) -> bool:
    """Whether a word looks made up: a digit or odd sign among letters, not a plain or a hyphenated word."""
    word = found.strip(".,;:!?)('\"")
    if len(word) < 5 or word[0] in "[<{$(" or len(set(word)) < 3:
        return False
    letters = bool(re.search(r"[^\W\d_]", word))
    odd = bool(re.search(r"[!@#$%^&*+=?~|\\]", word))
    return letters and (bool(re.search(r"\d", word)) or odd or bool(re.search(r"[a-z][A-Z]", word)))


def _password(found: str) -> bool:
    """Whether what follows "password:" is one: mixed, or a number of five digits or more."""
    return _mixed(found) or bool(re.fullmatch(r"\d{5,12}", found.strip(".,;:!?)")))


def _random(found: str) -> bool:
    """Whether a long run looks drawn at random: letters of both cases and digits, or hex, of high entropy."""
    pieces = re.split(r"[-_./=]+", found)
    piece = max(pieces, key=len)
    if len(piece) < 16 or not re.search(r"\d", piece) or not re.search(r"[A-Za-z]", piece):
        return False
    if re.fullmatch(r"[0-9a-f]+|[0-9A-F]+", piece):
        return len(piece) >= 32 and _entropy(piece) > 2.5
    changes = len(re.findall(r"[a-z](?=\d)|\d(?=[A-Za-z])|[a-z](?=[A-Z])|[A-Z](?=\d)", piece))
    return len(found) >= 20 and changes >= len(piece) / 6 and _entropy(piece) > 3.2


def _entropy(found: str) -> float:
    """Shannon entropy, bits a character."""
    return -sum(n / len(found) * math.log2(n / len(found)) for n in Counter(found).values())


def _luhn(found: str) -> bool:
    """Whether a number has the form and the check digit of a payment card (ISO/IEC 7812-1)."""
    digits = [int(c) for c in reversed(_digits(found))]
    doubled = [sum(divmod(2 * d, 10)) if i % 2 else d for i, d in enumerate(digits)]
    return 13 <= len(digits) <= 19 and digits[-1] in (2, 3, 4, 5, 6) and sum(doubled) % 10 == 0


def _iban_end(found: str) -> int:
    """How many characters of a match are a valid IBAN (ISO 13616, remainder 97); 0 where none are."""
    sizes = accumulate(c != " " for c in found)
    ends = [at + 1 for at, size in enumerate(sizes) if 15 <= size <= 34 and found[at] != " "]
    return next((end for end in reversed(ends) if _iban(found[:end])), 0)


def _iban(found: str) -> bool:
    bare = found.replace(" ", "").upper()
    return int("".join(str(int(c, 36)) for c in bare[4:] + bare[:4])) % 97 == 1


def _public_ip(found: str) -> bool:
    """Whether a text is an address of a machine, and not the local host or a mask."""
    try:
        address = ipaddress.ip_address(found.strip(":") if found.count("::") == 0 else found)
    except ValueError:
        return False
    long_enough = address.version == 4 or len(re.findall(r"[0-9a-fA-F]+", found)) >= 3
    return long_enough and not (address.is_loopback or address.is_unspecified or found.startswith("255."))


def _rules(kind: Kind, *table: tuple[str, str, str, Callable[[str], bool]]) -> tuple[_Rule, ...]:
    return tuple(_Rule(kind, mark, what, re.compile(pattern), holds) for mark, what, pattern, holds in table)


_SECRETS = _rules(
    "secret",
    (
        "[secret]",
        "a private key",
        r"-----BEGIN [A-Z ]{0,40}KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z ]{0,40}-----|\Z)",
        _always,
    ),
    (
        "[secret]",
        "a password in an address",
        r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/@]{0,100}:(?P<it>[^\s@]{1,100})@",
        _always,
    ),
    (
        "[secret]",
        "an API key",
        r"(?<![A-Za-z0-9])(?:sk|pk|rk|gsk|xai|nvapi|key|whsec|sess|api|tok|live|test|secret|token|ghs|pat|"
        r"dapi|lin_api|dop_v1|r8|shpat|hvs|"
        r"phc|figd|rpa|tvly|pplx|ntn|secret_key)[-_.](?P<it>[A-Za-z0-9_-]{10,300})",
        lambda found: (
            bool(re.search(r"\d", found)) and _mixed(found) and max(map(len, re.split("[-_]", found))) >= 8
        ),
    ),
    (
        "[secret]",
        "an API key",
        r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{12,}|"
        r"hf_[A-Za-z0-9]{16,}|AIza[\w-]{25,}|ya29\.[\w-]{16,}|"
        r"GOCSPX-[\w-]{16,}|(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{12,}|xox[abeoprs]-[\w-]{8,}|"
        r"xapp-[\w-]{8,}|npm_[A-Za-z0-9]{20,}|"
        r"pypi-[\w-]{16,}|SG\.[\w-]{10,}\.[\w-]{10,}|sq0(?:csp|atp)-[\w-]{16,}|EAA[A-Za-z0-9]{20,}|"
        r"\d{8,10}:[\w-]{30,})",
        lambda found: bool(re.search(r"\d", found)) or len(found) >= 24,
    ),
    ("[secret]", "a web token", r"\beyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?", _always),
    (
        "[secret]",
        "a secret web address",
        r"(?:hooks\.slack\.com/(?:services|workflows)|discord(?:app)?\.com/api/webhooks)"
        r"/(?P<it>[\w/-]{8,300})",
        _always,
    ),
    ("[secret]", "an access token", r"(?i)\bbearer\s+(?P<it>[A-Za-z0-9._~+/=-]{6,2000})", _mixed),
    (
        "[secret]",
        "an access token",
        r"(?i)\bauthorization\s*[:=]\s*(?:basic|token|bearer)?\s*(?P<it>[A-Za-z0-9._~+/=-]{8,2000})",
        _mixed,
    ),
    (
        "[secret]",
        "a password or key",
        rf"(?i)(?:(?<=[_-])|(?<![^\W\d_]))(?:{_NAME})[\"'`]?(?:\s+\w{{1,12}}){{0,3}}?\s*(?::=|=>|[:=：]|"
        rf"\b(?:is|was|ist|lautet|est|es)\b)\s*[\"'`“]?"
        r"(?P<it>[^\s\"'`“”,;]{4,300})",
        _password,
    ),
    (
        "[secret]",
        "a password or key",
        rf"(?i)(?:(?<=[_-])|(?<![^\W\d_]))(?:{_NAME})\s*(?:[:=]|=>|\bis\b|\blautet\b|\best\b)"
        rf"?\s*(?P<it>[\"'`“][^\s\"'`“”]{{5,100}}[\"'`”])",
        lambda found: not re.fullmatch(r".[<\[{$].*", found) and (_mixed(found) or found[1:-1].isalnum()),
    ),
    (
        "[secret]",
        "a password or key",
        r"(?i)\b(?:password|passwort|passwd|pwd|pass|secret|api[ _-]?key|kennwort)"
        r"=(?P<it>[^\s\"'`,;&\[<{]{4,100})",
        _always,
    ),
    (
        "[secret]",
        "a password or key",
        r"(?i)\b(?:password|passwort|passcode|passphrase|api[ _-]?key|access[ _-]?key|secret[ _-]?key|"
        r"token|kennwort)\s+(?P<it>[^\s\"'`,;]{6,300})",
        lambda found: _mixed(found) and bool(re.search(r"[A-Za-z].*\d|[!@#$%^&*~].*\w", found)),
    ),
    (
        "[secret]",
        "a PIN",
        r"(?i)\b(?:pin|passcode|cvv|cvc|otp|one-time code|security code)(?: ?(?:code|number))?\s*(?::|=|is|"
        r"ist)?\s*#?\s*(?P<it>\d{3,8})\b",
        _always,
    ),
    (
        "[secret]",
        "a password",
        r"(?i)\b(?:admin|root|user|login|username|account)\s*[:/]\s*(?:[\w.@-]{1,40}\s*[:/]\s*)"
        r"?(?P<it>[^\s\"'`,;]{6,100})",
        _mixed,
    ),
    ("[secret]", "a key", r"(?<![\w+/=-])[A-Za-z0-9+/_=.-]{20,2000}(?![\w+/=-])", _random),
)

_STREET = (
    r"Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Boulevard|Blvd|Crescent|Terrace|Court|"
    r"Place|Square|Way|Close|Gardens|Grove|Mews|Highway"
)
_DATE = (
    r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|\d{1,2}(?:st|nd|rd|th|\.)? (?:of )?[A-Z][a-zä]{2,8},? \d{4}|"
    r"[A-Z][a-z]{2,8} \d{1,2}(?:st|nd|rd|th)?,? \d{4}"
)
_PERSONAL = _rules(
    "personal",
    (
        "[email]",
        "an e-mail address",
        r"(?<![\w.+%-])[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}",
        _always,
    ),
    (
        "[email]",
        "an e-mail address",
        r"(?i)(?<![\w.+-])[\w.+-]{1,64}\s?[\[({]\s?at\s?[\])}]\s?[\w-]{1,63}(?:\s?(?:\.|[\[({]\s?dot\s?[\])"
        r"}])\s?[\w-]{1,63}){1,4}",
        _always,
    ),
    (
        "[email]",
        "an e-mail address",
        r"(?i)(?<![\w.+-])[\w.+-]{1,64} at [\w-]{1,63} dot (?:com|org|net|de|io|co|uk|fr|es|eu)\b",
        _always,
    ),
    (
        "[iban]",
        "a bank account number",
        r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,40}",
        lambda found: _iban_end(found) > 0,
    ),
    ("[card]", "a payment card number", r"(?<![\w.,])\d(?:[ -]?\d){12,18}(?![\d])", _luhn),
    (
        "[id]",
        "a social security number",
        r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])",
        _always,
    ),
    (
        "[id]",
        "an identity number",
        r"(?i)\b(?:passport|ssn|social security|national id|national insurance|nino|id card|identity card|"
        r"driver'?s? licen[cs]e|driving licen[cs]e|"
        r"tax id|taxpayer id|steuer-?id|aadhaar|nhs|medicare|dni|patient|mrn|medical record|"
        r"personalausweis\w*|ausweis\w*|insurance)"
        r"(?: (?:id|number|no\.?|nr\.?|num|code))?\s*(?::|=|#|is|ist)?\s*#?\s*(?P<it>(?=[A-Z0-9 -]{0,12}\d)"
        r"[A-Z0-9](?:[ -]?[A-Z0-9]){4,17})",
        _several(5),
    ),
    ("[id]", "an identity number", r"(?<!\w)[A-CEGHJ-PR-TW-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D](?!\w)", _always),
    (
        "[id]",
        "a device address",
        r"(?<![\w:-])[0-9A-Fa-f]{2}(?P<sep>[:-])[0-9A-Fa-f]{2}(?:(?P=sep)[0-9A-Fa-f]{2}){4}(?![\w:-])",
        _always,
    ),
    (
        "[ip]",
        "an IP address",
        r"(?<![\w.])(?<!version )(?<!Version )\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)",
        _public_ip,
    ),
    ("[ip]", "an IP address", r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])", _public_ip),
    ("[phone]", "a phone number", r"(?<![\w+])\+\d(?:[ ./()-]{0,3}\d){6,14}(?!\d)", _several(7, 15)),
    (
        "[phone]",
        "a phone number",
        r"(?<![\w+])(?<!\d )00[1-9]\d(?:[ ./()-]{1,3}\d{1,8}){2,6}(?!\w)",
        _several(9, 16),
    ),
    (
        "[phone]",
        "a phone number",
        r"(?<![\w.,-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])",
        _several(10, 11),
    ),
    (
        "[phone]",
        "a phone number",
        r"(?<![\w.,/+-])(?<!\d )\(?0[1-9]\d{1,4}\)?[ /-]{1,3}\d{2,8}(?:[ -]\d{2,6}){0,4}(?![\w-]|[.,/]\d)",
        _several(9, 13),
    ),
    ("[phone]", "a phone number", r"(?<![\w.,/+-])0[1-9](?:[ .]\d{2}){4}(?![\w-])", _always),
    (
        "[phone]",
        "a phone number",
        r"(?i)\b(?:phone|telephone|tel|mobile|mob|cell|cellphone|fax|whatsapp|dial|handy|telefon|call(?: "
        r"(?:me|us|him|her|them|back|back on))?|ring|text|sms|"
        r"hotline|(?:phone|mobile|cell|telephone|contact) number|t[ée]l[ée]phone|tel[ée]fono)\.?(?: (?:on|"
        r"at|is|number|no\.?|under|unter|nr\.?)){0,2}\s?[:=]?\s?"
        r"(?P<it>\(?\d(?:[ ./()-]{0,2}\d){6,14})(?!\d)",
        _several(7, 15),
    ),
    (
        "[address]",
        "a street address",
        rf"(?<![\w.,-])\d{{1,5}}[A-Za-z]?,? (?:(?:North|South|East|West|[NSEW]\.?) )"
        rf"?(?:[A-Z][\w'’-]{{1,20}}\.? ){{1,3}}(?:{_STREET})\b\.?"
        r"(?:,? (?:Apt|Apartment|Suite|Unit|Flat|#)\.? ?\w{1,5})?",
        _always,
    ),
    (
        "[address]",
        "a street address",
        r"(?<!\w)(?:[A-ZÄÖÜ][\wäöüß.-]{1,30}[ -])?[A-ZÄÖÜ][\wäöüß-]{2,30}(?:straße|strasse|str\.|allee|"
        r"platz|gasse|weg|damm|ufer)\s\d{1,4}[a-z]?(?!\w)",
        _always,
    ),
    (
        "[address]",
        "a street address",
        r"(?<!\w)\d{1,4}(?: bis| ter)?,? (?:rue|avenue|boulevard|chemin|allée|quai|impasse) (?:de |du |des "
        r"|la |le |l['’]){0,3}[A-ZÉ][\w'’-]{1,30}"
        r"|(?<!\w)(?:Calle|Avenida|Avda\.|Plaza|Via|Viale) (?:de |del |la |los )"
        r"{0,3}[A-ZÁ][\w'’-]{1,30}(?: [A-ZÁ][\w'’-]{1,30}){0,2},? \d{1,4}(?!\w)"
        r"|(?i:\bP\.? ?O\.? ?Box) \d{1,6}(?!\w)",
        _always,
    ),
    (
        "[date]",
        "a date of birth",
        rf"\b(?:[Bb]orn(?: on)?|DOB|[Dd]ate of birth|[Gg]eboren am|[Bb]irthday|[Bb]irthdate)(?: is)"
        rf"?\W{{0,3}}(?P<it>{_DATE})(?!\w)",
        _always,
    ),
)


@cache
def _provided() -> tuple[_Rule, ...]:
    """The key formats of detect-secrets, as rules."""
    from importlib import import_module

    found = []
    for name in PROVIDERS:
        module, _, detector = name.rpartition(".")
        for pattern in getattr(import_module(f"detect_secrets.plugins.{module}"), detector).denylist:
            found.append(_Rule("secret", "[secret]", "an API key", pattern, _always))
    return tuple(found)


def redact(text: str) -> tuple[str, dict[str, Kind]]:
    """
    A text without secrets and personal data, and what was taken out ("an e-mail address") by kind.

    What is returned holds nothing more to take out: a text that still does after some rounds, as only one made to
    confuse does, comes back empty.
    """
    taken: dict[str, Kind] = {}
    for _ in range(6):
        found = list(_private(text))
        if not found:
            return text, taken
        taken |= {private.what: private.kind for private in found}
        text = _without(text, found)
    return "", taken


def _without(text: str, found: list[Private]) -> str:
    """The text with each stretch replaced; of two that overlap the first in the list counts."""
    pieces, end = [], 0
    for private in sorted(found):
        pieces += [text[end : private.start], private.placeholder]
        end = private.end
    return "".join([*pieces, text[end:]])


def _private(text: str) -> Iterator[Private]:
    """Stretches to take out, none overlapping another or a placeholder."""
    used = bytearray(len(text))
    for match in PLACEHOLDER.finditer(text):
        used[match.start() : match.end()] = b"\1" * (match.end() - match.start())
    for rule in (*_SECRETS, *_provided(), *_PERSONAL):
        for start, end in _spans(rule, text):
            if start < end and not any(used[start:end]):
                used[start:end] = b"\1" * (end - start)
                yield Private(start, end, rule.kind, rule.placeholder, rule.what)


def _spans(rule: _Rule, text: str) -> Iterator[tuple[int, int]]:
    """Where a rule holds in a text: its group `it`, or the whole match."""
    group = "it" if "it" in rule.pattern.groupindex else 0
    for match in rule.pattern.finditer(text):
        if rule.holds(match[group]):
            start, end = match.span(group)
            yield start, start + _iban_end(match[0]) if rule.placeholder == "[iban]" else end
