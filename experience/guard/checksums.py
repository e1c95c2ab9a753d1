"""Whether a stretch of text is what its form says: a number with its check digit, a word that looks made up."""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable
from itertools import accumulate

# What stands for a secret or an address in examples and code: "your-key", "****", "None", os.environ["KEY"].
_STAND_IN = re.compile(
    r"(?:my|your|the|some|an?|user)?[-_]?(?:user(?:name)?|pass(?:word|wd|phrase)?|pwd|secret|token|"
    r"key|api[-_]?key|"
    r"credentials?|redacted|hidden|changeme|placeholder|example|none|null|true|false|empty|"
    r"str(?:ing)?)(?:[-_]here)?"
    r"|[*x.•X]{2,}|(?:[a-z]{2,5}[-_])?[*xX.]{3,}|(?:os|env|getenv|process|settings|config|getpass|"
    r"secrets|self|args|"
    r"vault|keyring|credentials|environ)\b[.(\[].*",
    re.IGNORECASE | re.DOTALL,
)
_SAMPLE_MAIL = re.compile(
    r"(?:git@.*|(?:user(?:name)?|name|someone|somebody|first(?:[._]?(?:name)?[._]?last(?:name)?)?|"
    r"you(?:r[._-]?name)?|"
    r"local(?:[._-]?part)?|foo|test|me|email|mail|address|x|a|recipient|sender)(?:\+\w+)?@"
    r"(?:(?:[\w-]+\.)*example(?:\.\w+)?|domain\.\w+|host(?:\.\w+)?|test\.\w+|b\.\w+))",
    re.IGNORECASE,
)


def always(found: str) -> bool:
    """For forms that need no other sign."""
    return True


def no_stand_in(found: str) -> bool:
    """Whether a word is no placeholder as examples and code have it."""
    return not _STAND_IN.fullmatch(found.strip(".,;:!?)('\"`"))


def mail_of_somebody(found: str) -> bool:
    """Whether an address is no sample such as name@example.com (RFC 2606) and no login of a git host."""
    return not _SAMPLE_MAIL.fullmatch(found)


def _counted(digits: str) -> bool:
    """Whether digits count up by one, as in 123-45-6789, or are all the same."""
    return digits in "12345678901234567890" or digits in "01234567890" or len(set(digits)) < 2


def _digits(found: str) -> str:
    return re.sub(r"\D", "", found)


def several(least: int, most: int = 99) -> Callable[[str], bool]:
    """Whether a text has so many digits, and they are no sample."""
    return lambda found: least <= len(_digits(found)) <= most and not _counted(_digits(found))


def mixed(found: str) -> bool:
    """Whether a word looks made up: a digit or odd sign among letters, not a plain or a hyphenated word."""
    word = found.strip(".,;:!?)('\"")
    if len(word) < 5 or word[0] in "[<{$(" or len(set(word)) < 3 or not no_stand_in(found):
        return False
    letters = bool(re.search(r"[^\W\d_]", word))
    odd = bool(re.search(r"[!@#$%^&*+=?~|\\]", word))
    return letters and (bool(re.search(r"\d", word)) or odd or bool(re.search(r"[a-z][A-Z]", word)))


def password_like(found: str) -> bool:
    """Whether what follows "password:" is one: mixed, or a number of five digits or more."""
    return mixed(found) or bool(re.fullmatch(r"\d{5,12}", found.strip(".,;:!?)")))


def random_run(found: str) -> bool:
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


def card_number(found: str) -> bool:
    """Whether a number has the form and the check digit of a payment card (ISO/IEC 7812-1)."""
    digits = [int(c) for c in reversed(_digits(found))]
    doubled = [sum(divmod(2 * d, 10)) if i % 2 else d for i, d in enumerate(digits)]
    return 13 <= len(digits) <= 19 and digits[-1] in (2, 3, 4, 5, 6) and sum(doubled) % 10 == 0


def iban_end(found: str) -> int:
    """How many characters of a match are a valid IBAN (ISO 13616, remainder 97); 0 where none are."""
    sizes = accumulate(c != " " for c in found)
    ends = [at + 1 for at, size in enumerate(sizes) if 15 <= size <= 34 and found[at] != " "]
    return next((end for end in reversed(ends) if _iban(found[:end])), 0)


def _iban(found: str) -> bool:
    bare = found.replace(" ", "").upper()
    return int("".join(str(int(c, 36)) for c in bare[4:] + bare[:4])) % 97 == 1


def public_address(found: str) -> bool:
    """Whether a text is an address of a machine, and not the local host or a mask."""
    try:
        address = ipaddress.ip_address(found.strip(":") if found.count("::") == 0 else found)
    except ValueError:
        return False
    long_enough = address.version == 4 or len(re.findall(r"[0-9a-fA-F]+", found)) >= 3
    sample = re.fullmatch(
        r"(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01])|255)\..*\.[01]|255\..*|1\.2\.3\.4", found
    )
    return long_enough and not (address.is_loopback or address.is_unspecified or sample)
