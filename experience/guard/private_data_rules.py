"""The forms of secrets and personal data, each with what stands in their place and what must hold besides."""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from edgewise.experience.guard.checksums import (
    always,
    card_number,
    iban_end,
    mail_of_somebody,
    mixed,
    no_stand_in,
    password_like,
    public_address,
    random_run,
    several,
)

Kind = Literal["secret", "personal"]

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


class Rule(NamedTuple):
    """Where `pattern` matches and `holds` agrees, its group `it` (or all of it) is private."""

    kind: Kind
    placeholder: str
    what: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool]


def _rules(kind: Kind, *table: tuple[str, str, str, Callable[[str], bool]]) -> tuple[Rule, ...]:
    return tuple(Rule(kind, mark, what, re.compile(pattern), holds) for mark, what, pattern, holds in table)


SECRETS = _rules(
    "secret",
    (
        "[secret]",
        "a private key",
        r"-----BEGIN [A-Z ]{0,40}KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z ]{0,40}-----|\Z)",
        always,
    ),
    (
        "[secret]",
        "a password in an address",
        r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/@]{0,100}:(?P<it>[^\s@]{1,100})@",
        no_stand_in,
    ),
    (
        "[secret]",
        "an API key",
        r"(?<![A-Za-z0-9])(?:sk|pk|rk|gsk|xai|nvapi|key|whsec|sess|api|tok|live|test|secret|token|ghs|pat|"
        r"dapi|lin_api|dop_v1|r8|shpat|hvs|"
        r"phc|figd|rpa|tvly|pplx|ntn|secret_key)[-_.](?P<it>[A-Za-z0-9_-]{10,300})",
        lambda found: (
            bool(re.search(r"\d", found)) and mixed(found) and max(map(len, re.split("[-_]", found))) >= 8
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
    ("[secret]", "a web token", r"\beyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?", always),
    (
        "[secret]",
        "a secret web address",
        r"(?:hooks\.slack\.com/(?:services|workflows)|discord(?:app)?\.com/api/webhooks)"
        r"/(?P<it>[\w/-]{8,300})",
        always,
    ),
    ("[secret]", "an access token", r"(?i)\bbearer\s+(?P<it>[A-Za-z0-9._~+/=-]{6,2000})", mixed),
    (
        "[secret]",
        "an access token",
        r"(?i)\bauthorization\s*[:=]\s*(?:basic|token|bearer)?\s*(?P<it>[A-Za-z0-9._~+/=-]{8,2000})",
        mixed,
    ),
    (
        "[secret]",
        "a password or key",
        rf"(?i)(?:(?<=[_-])|(?<![^\W\d_]))(?:{_NAME})[\"'`]?(?:\s+\w{{1,12}}){{0,3}}?\s*(?::=|=>|[:=：]|"
        rf"\b(?:is|was|ist|lautet|est|es)\b)\s*[\"'`“]?"
        r"(?P<it>[^\s\"'`“”,;]{4,300})",
        password_like,
    ),
    (
        "[secret]",
        "a password or key",
        rf"(?i)(?:(?<=[_-])|(?<![^\W\d_]))(?:{_NAME})\s*(?:[:=]|=>|\bis\b|\blautet\b|\best\b)"
        rf"?\s*(?P<it>[\"'`“][^\s\"'`“”]{{5,100}}[\"'`”])",
        lambda found: not re.fullmatch(r".[<\[{$].*", found) and (mixed(found) or found[1:-1].isalnum()),
    ),
    (
        "[secret]",
        "a password or key",
        r"(?i)\b(?:password|passwort|passwd|pwd|pass|secret|api[ _-]?key|kennwort)"
        r"=(?P<it>[^\s\"'`,;&\[<{]{4,100})",
        no_stand_in,
    ),
    (
        "[secret]",
        "a password or key",
        r"(?i)\b(?:password|passwort|passcode|passphrase|api[ _-]?key|access[ _-]?key|secret[ _-]?key|"
        r"token|kennwort)\s+(?P<it>[^\s\"'`,;]{6,300})",
        lambda found: mixed(found) and bool(re.search(r"[A-Za-z].*\d|[!@#$%^&*~].*\w", found)),
    ),
    (
        "[secret]",
        "a password",
        r"(?<!\w)(?:-u|--user)[ =][\"']?[\w.@-]{1,40}:(?P<it>[^\s\"']{4,100})",
        no_stand_in,
    ),
    (
        "[secret]",
        "a PIN",
        r"(?i)\b(?:pin|passcode|(?:door|gate|alarm|safe|lock|access|entry) code|cvv|cvc|otp|"
        r"one-time code|security code)(?: ?(?:code|number))?\s*(?::|=|is|"
        r"ist)?\s*#?\s*(?P<it>\d{3,8})\b",
        always,
    ),
    (
        "[secret]",
        "a password",
        r"(?i)(?<!//)\b(?:admin|root|user|login|username|account)\s*[:/]\s*(?:[\w.@-]{1,40}\s*[:/]\s*)"
        r"?(?P<it>[^\s\"'`,;]{6,100})",
        mixed,
    ),
    ("[secret]", "a key", r"(?<![\w+/=-])[A-Za-z0-9+/_=.-]{20,2000}(?![\w+/=-])", random_run),
)

_STREET = (
    r"Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Boulevard|Blvd|Crescent|Terrace|Court|"
    r"Place|Square|Way|Close|Gardens|Grove|Mews|Highway"
)
_DATE = (
    r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|\d{1,2}(?:st|nd|rd|th|\.)? (?:of )?[A-Z][a-zä]{2,8},? \d{4}|"
    r"[A-Z][a-z]{2,8} \d{1,2}(?:st|nd|rd|th)?,? \d{4}"
)
PERSONAL = _rules(
    "personal",
    (
        "[email]",
        "an e-mail address",
        r"(?<![\w.+%-])[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}",
        mail_of_somebody,
    ),
    (
        "[email]",
        "an e-mail address",
        r"(?i)(?<![\w.+-])[\w.+-]{1,64}\s?[\[({]\s?at\s?[\])}]\s?[\w-]{1,63}(?:\s?(?:\.|[\[({]\s?dot\s?[\])"
        r"}])\s?[\w-]{1,63}){1,4}",
        always,
    ),
    (
        "[email]",
        "an e-mail address",
        r"(?i)(?<![\w.+-])[\w.+-]{1,64} at [\w-]{1,63} dot (?:com|org|net|de|io|co|uk|fr|es|eu)\b",
        always,
    ),
    (
        "[iban]",
        "a bank account number",
        r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,40}",
        lambda found: iban_end(found) > 0,
    ),
    ("[card]", "a payment card number", r"(?<![\w.,])\d(?:[ -]?\d){12,18}(?![\d])", card_number),
    (
        "[id]",
        "a social security number",
        r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])",
        several(9),
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
        several(5),
    ),
    ("[id]", "an identity number", r"(?<!\w)[A-CEGHJ-PR-TW-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D](?!\w)", always),
    (
        "[id]",
        "a device address",
        r"(?<![\w:-])[0-9A-Fa-f]{2}(?P<sep>[:-])[0-9A-Fa-f]{2}(?:(?P=sep)[0-9A-Fa-f]{2}){4}(?![\w:-])",
        lambda found: len(set(found)) > 3,
    ),
    (
        "[ip]",
        "an IP address",
        r"(?<![\w.])(?<!version )(?<!Version )\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)",
        public_address,
    ),
    (
        "[ip]",
        "an IP address",
        r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])",
        public_address,
    ),
    ("[phone]", "a phone number", r"(?<![\w+])\+\d(?:[ ./()-]{0,3}\d){6,14}(?!\d)", several(7, 15)),
    (
        "[phone]",
        "a phone number",
        r"(?<![\w+])(?<!\d )00[1-9]\d(?:[ ./()-]{1,3}\d{1,8}){2,6}(?!\w)",
        several(9, 16),
    ),
    (
        "[phone]",
        "a phone number",
        r"(?<![\w.,-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])",
        several(10, 11),
    ),
    (
        "[phone]",
        "a phone number",
        r"(?<![\w.,/+-])(?<!\d )\(?0[1-9]\d{1,4}\)?[ /-]{1,3}\d{2,8}(?:[ -]\d{2,6}){0,4}(?![\w-]|[.,/]\d)",
        several(9, 13),
    ),
    ("[phone]", "a phone number", r"(?<![\w.,/+-])0[1-9](?:[ .]\d{2}){4}(?![\w-])", always),
    (
        "[phone]",
        "a phone number",
        r"(?i)\b(?:phone|telephone|tel|mobile|mob|cell|cellphone|fax|whatsapp|dial|handy|telefon|call(?: "
        r"(?:me|us|him|her|them|back|back on))?|ring|text|sms|"
        r"hotline|(?:phone|mobile|cell|telephone|contact) number|t[ée]l[ée]phone|tel[ée]fono)\.?(?: (?:on|"
        r"at|is|number|no\.?|under|unter|nr\.?)){0,2}\s?[:=]?\s?"
        r"(?P<it>\(?\d(?:[ ./()-]{0,2}\d){6,14})(?!\d)",
        several(7, 15),
    ),
    (
        "[address]",
        "a street address",
        rf"(?<![\w.,-])\d{{1,5}}[A-Za-z]?,? (?:(?:North|South|East|West|[NSEW]\.?) )"
        rf"?(?:[A-Z][\w'’-]{{1,20}}\.? ){{1,3}}(?:{_STREET})\b\.?"
        r"(?:,? (?:Apt|Apartment|Suite|Unit|Flat|#)\.? ?\w{1,5})?",
        always,
    ),
    (
        "[address]",
        "a street address",
        r"(?<!\w)(?:[A-ZÄÖÜ][\wäöüß.-]{1,30}[ -])?[A-ZÄÖÜ][\wäöüß-]{2,30}(?:straße|strasse|str\.|allee|"
        r"platz|gasse|weg|damm|ufer)\s\d{1,4}[a-z]?(?!\w)",
        always,
    ),
    (
        "[address]",
        "a street address",
        r"(?<!\w)\d{1,4}(?: bis| ter)?,? (?:rue|avenue|boulevard|chemin|allée|quai|impasse) (?:de |du |des "
        r"|la |le |l['’]){0,3}[A-ZÉ][\w'’-]{1,30}"
        r"|(?<!\w)(?:Calle|Avenida|Avda\.|Plaza|Via|Viale) (?:de |del |la |los )"
        r"{0,3}[A-ZÁ][\w'’-]{1,30}(?: [A-ZÁ][\w'’-]{1,30}){0,2},? \d{1,4}(?!\w)"
        r"|(?i:\bP\.? ?O\.? ?Box) \d{1,6}(?!\w)",
        always,
    ),
    (
        "[date]",
        "a date of birth",
        rf"\b(?:[Bb]orn(?: on)?|DOB|[Dd]ate of birth|[Gg]eboren am|[Bb]irthday|[Bb]irthdate)(?: is)"
        rf"?\W{{0,3}}(?P<it>{_DATE})(?!\w)",
        always,
    ),
)
