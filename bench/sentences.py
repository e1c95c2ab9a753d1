"""Short sentences with a given word: a verifiable task that a small model seldom gets right, and can learn."""

from typing import Any

from toolkit.task import Task

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
MOST = 8


def short(completion: str, word: str = "", **_: Any) -> float:
    """1 for a sentence that ends, has at most eight words and the wanted one among them; else 0."""
    said = completion.strip()
    return float(said[-1:] in (".", "!", "?") and len(said.split()) <= MOST and word.lower() in said.lower())


def task(train: int = 80, validation: int = 4, test: int = 60) -> Task:
    """Words for each split, drawn with a seed."""
    rows = [{"word": word} for word in WORDS.split()[: train + validation + test]]
    total = len(rows)
    splits = {"train": train / total, "validation": validation / total, "test": test / total, "seed": 3}
    return Task.from_rows(rows, prompt=PROMPT, target="", reward=short, splits=splits, name="sentences")
