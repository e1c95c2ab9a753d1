"""Whether a stretch of text is what its pattern says: a number with its check digit, a word that looks made up."""

import ipaddress
import math
import re
from collections import Counter

from stdnum import luhn
from stdnum.iso7064 import mod_97_10

from edgewise.experience.guard.patterns import get_pattern


def is_no_placeholder(text: str) -> bool:
    """Return whether a word is no stand-in for a secret as examples and code have it."""
    return not get_pattern("placeholders", "secret").fullmatch(text.strip(".,;:!?)('\"`"))


def is_real_mail(text: str) -> bool:
    """Return whether an address is no sample such as name@example.com (RFC 2606) and no login of a git host."""
    return not get_pattern("placeholders", "mail").fullmatch(text)


def has_digits(text: str, least: int, most: int) -> bool:
    """Return whether a text has so many digits, and these are no sample that counts up or repeats one digit."""
    digits = re.sub(r"\D", "", text)
    is_sample = digits in "12345678901234567890" or digits in "01234567890" or len(set(digits)) < 2
    return least <= len(digits) <= most and not is_sample


def is_mixed(text: str) -> bool:
    """Return whether a word looks made up: a digit or odd sign among letters, not a plain or a hyphenated word."""
    # Brackets and "$" begin a variable such as <key> or ${KEY}; "xxxxx" has one sign.
    word = text.strip(".,;:!?)('\"")
    if len(word) < 5 or word[0] in "[<{$(" or len(set(word)) < 3 or not is_no_placeholder(text):
        return False
    return bool(re.search(r"[^\W\d_]", word) and re.search(r"\d|[!@#$%^&*+=?~|\\]|[a-z][A-Z]", word))


def is_key_like(text: str) -> bool:
    """Return whether what follows a key's prefix is one: mixed, with a digit and a part of eight characters."""
    longest = max(map(len, re.split("[-_]", text)))
    return bool(re.search(r"\d", text)) and is_mixed(text) and longest >= 8


def is_token_like(text: str) -> bool:
    """Return whether what has the form of a provider's token has a digit or is long."""
    return bool(re.search(r"\d", text)) or len(text) >= 24


def is_password(text: str) -> bool:
    """Return whether what follows "password:" is one: mixed, or a number of five digits or more."""
    return is_mixed(text) or bool(re.fullmatch(r"\d{5,12}", text.strip(".,;:!?)")))


def is_quoted_password(text: str) -> bool:
    """Return whether what follows "password" in quotes is one, and no variable such as "<password>"."""
    return not re.fullmatch(r".[<\[{$].*", text) and (is_mixed(text) or text[1:-1].isalnum())


def is_password_word(text: str) -> bool:
    """Return whether the word after "password" is one: mixed, with a digit after a letter or an odd sign."""
    return is_mixed(text) and bool(re.search(r"[A-Za-z].*\d|[!@#$%^&*~].*\w", text))


def is_random(text: str) -> bool:
    """
    Return whether a long run looks drawn at random: letters of both cases and digits, or hex.

    Drawn at random, hex has 4 bits a character and base64 6, but a run of n characters shows log2 n at most: 4 for
    the shortest here. The thresholds of 2.5 and 3.2 leave room for characters that repeat by chance.
    """
    # The longest part between signs: a path or a slug is a row of short words.
    piece = max(re.split(r"[-_./=]+", text), key=len)
    if len(piece) < 16 or not re.search(r"\d", piece) or not re.search(r"[A-Za-z]", piece):
        return False
    # Shannon entropy in bits a character, H = -sum p log2 p.
    shares = [count / len(piece) for count in Counter(piece).values()]
    entropy = -sum(share * math.log2(share) for share in shares)
    if re.fullmatch(r"[0-9a-f]+|[0-9A-F]+", piece):
        return len(piece) >= 32 and entropy > 2.5
    # Words in camelCase change between cases and digits at their ends only, base64 at every other letter.
    changes = len(re.findall(r"[a-z](?=\d)|\d(?=[A-Za-z])|[a-z](?=[A-Z])|[A-Z](?=\d)", piece))
    return len(text) >= 20 and changes >= len(piece) / 6 and entropy > 3.2


def is_card_number(text: str) -> bool:
    """Return whether a number has the form and the check digit of a payment card (ISO/IEC 7812-1)."""
    digits = "".join(str(int(sign)) for sign in text if sign.isdecimal())
    # The first digit is the industry: 3 travel, 4 and 5 banks, 6 and 2 the newer ranges of cards.
    return 13 <= len(digits) <= 19 and digits[0] in "23456" and luhn.is_valid(digits)


def measure_iban(text: str) -> int:
    """
    Return how many characters at the start of a text are an IBAN (ISO 13616), the most where several are; 0 for none.

    A pattern cannot tell where the number ends ("DE89 3704 0044 0532 0130 00 always"), so every end is tried. Only
    the check digits count (ISO 7064, MOD 97-10): the registry of `stdnum.iban` lacks countries that use the form.
    """
    for end in range(len(text), 0, -1):
        number = text[:end].replace(" ", "").upper()
        is_whole = 15 <= len(number) <= 34 and text[end - 1] != " "
        if is_whole and mod_97_10.is_valid(number[4:] + number[:4]):
            return end
    return 0


def is_device_address(text: str) -> bool:
    """Return whether a device address is not empty ("00:00:00:00:00:00")."""
    return len(set(text)) > 3


def is_public_address(text: str) -> bool:
    """Return whether a text is an address of a machine, and not the local host, a mask or a sample."""
    try:
        address = ipaddress.ip_address(text.strip(":") if text.count("::") == 0 else text)
    except ValueError:
        return False
    # "a::b" is more often code than an address; routers and masks are in every manual.
    is_long = address.version == 4 or len(re.findall(r"[0-9a-fA-F]+", text)) >= 3
    sample = r"(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01])|255)\..*\.[01]|255\..*|1\.2\.3\.4"
    is_local = address.is_loopback or address.is_unspecified or re.fullmatch(sample, text)
    return is_long and not is_local
