"""Short sentences with a given word: a verifiable task that a small model seldom gets right, and can learn."""

import re
from typing import Any

from edgewise.toolkit.task.task import Task

WORDS = """
    cat dog horse cow sheep goat pig rabbit mouse lion tiger bear wolf fox deer elephant monkey whale
    dolphin shark eagle owl duck goose chicken parrot snake lizard frog turtle spider bee ant butterfly
    salmon camel bread cheese butter rice pasta soup salad pizza apple banana orange grape lemon pear
    peach cherry potato tomato carrot onion bean corn cake cookie honey sugar bacon garlic France
    Germany Italy Spain Greece Poland Sweden Norway Egypt Kenya India China Japan Vietnam Canada Mexico
    Brazil Chile Peru Cuba hammer saw wrench drill axe shovel rake ladder knife ruler anvil broom chair
    table window door garden river mountain forest island ocean bridge tower castle village market
    school doctor teacher farmer pilot singer baker winter summer morning evening music letter picture
    mirror clock candle bottle basket jacket shoe glove umbrella bicycle train rocket planet shadow
    thunder pocket button blanket kettle
"""
PROMPT = 'Write one sentence of at most eight words with the word "{word}".'
LEAST, MOST = 3, 8
SENTENCE = re.compile(r"[A-Z][^.!?\n]*[.!?]")


def short(completion: str, word: str = "", **_: Any) -> float:
    """1 for one sentence, from a capital to its end, of three to eight words, the wanted one among them; else 0."""
    said, words = completion.strip(), re.findall(r"[a-z'’-]+", completion.lower())
    # A word that is written over and over makes no sentence longer.
    long = len(set(words)) >= LEAST and len(words) <= MOST
    wanted = re.search(rf"\b{re.escape(word)}\b", said, re.IGNORECASE)
    return float(long and wanted is not None and SENTENCE.fullmatch(said) is not None)


def task(train: int = 80, validation: int = 4, test: int = 60) -> Task:
    """Words for each split, drawn with a seed."""
    rows = [{"word": word} for word in WORDS.split()[: train + validation + test]]
    total = len(rows)
    splits = {"train": train / total, "validation": validation / total, "test": test / total, "seed": 3}
    return Task.from_rows(rows, prompt=PROMPT, target="", reward=short, splits=splits, name="sentences")
