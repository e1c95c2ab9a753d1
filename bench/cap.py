"""
Whether the library's caps hold: 500 batches of synthetic lessons of all lengths and scripts, by the loop's own path.

After each batch the library is counted as the loop counts it, and now and then by the tokenizer of the small embedded
model, which the estimate must not fall below.
"""

import json
import sys
import urllib.request
from contextlib import closing

import numpy as np
from common import quick, report

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.library.library import Library
from edgewise.experience.library.operations import Operation
from edgewise.experience.proposers import candidates
from edgewise.experience.spec import ExperienceSpec
from edgewise.toolkit.model.embedded.server import serve_model
from tests.support import toy

LESSONS, TOKENS = 200, 6000
SCRIPTS = {
    "english": "refund invoice damaged parcel password answer always never unless total digits round carefully".split(),
    "german": "Rechnung Überweisung zurückgeben Gewährleistungsansprüche Straße niemals außer".split(),
    "chinese": list("退款发票密码总是从不除非金额包裹损坏回答客户"),
    "code": ["x[i]+=1", "for(;;){}", "λ→∀", "0xFF", "</div>", "🙂", "a_b.c", "\\n"],
}


def batch(rng: np.random.Generator, library: Library) -> list[Operation]:
    """Up to 40 operations: mostly new lessons of one to a thousand words, some changes of lessons that are there."""
    found = []
    for _ in range(rng.integers(1, 41)):
        words = SCRIPTS[str(rng.choice(list(SCRIPTS)))]
        text = " ".join(rng.choice(words, int(rng.geometric(0.03)) + 1)) + f" {rng.integers(1e6)}"
        ids = [x.id for x in library.lessons]
        if ids and rng.random() < 0.3:
            found.append(Operation(action="modify", id=str(rng.choice(ids)), text=text))
        else:
            found.append(Operation(action="add", text=text))
    return found


def counted(url: str, text: str) -> int:
    """Tokens by the server's tokenizer."""
    request = urllib.request.Request(f"{url.removesuffix('/v1')}/tokenize", json.dumps({"content": text}).encode())
    with urllib.request.urlopen(request) as reply:
        return len(json.load(reply)["tokens"])


def main() -> int:
    batches = 60 if quick() else 500
    rng = np.random.default_rng(0)
    config = ExperienceConfig(model="scripted/x", lessons=LESSONS, library_tokens=TOKENS, words=400)
    job = ExperienceSpec(toy.task(), config)
    library, most, over, ratios, longest = Library(), 0, 0, [], 0
    with closing(serve_model("smollm2-135m")) as server:
        for number in range(batches):
            library, _ = candidates.apply_within_caps(job, library, batch(rng, library), number)
            most, longest = max(most, library.tokens), max(longest, len(library))
            over += library.tokens > TOKENS or len(library) > LESSONS
            if number % 10 == 0 and library.lessons:
                ratios.append(counted(server.url, library.render()) / library.tokens)
    figures = {
        "batches": batches,
        "most_tokens": most,
        "most_lessons": longest,
        "batches_over": over,
        "real_to_estimated_worst": round(max(ratios), 3),
        "real_to_estimated_median": round(float(np.median(ratios)), 3),
    }
    return report("cap", figures, f"never above {TOKENS} tokens or {LESSONS} lessons", over == 0)


if __name__ == "__main__":
    sys.exit(main())
