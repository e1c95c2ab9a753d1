"""
The other end of `toolkit.reward.math_equality`: a process that compares formulas, one JSON line in, one out.

Started as a script (`python -I compare_math.py`) and never imported. math-verify sets its time limits by a
signal, which works in a main thread only: this process has one, and can be killed if it does not heed it.
"""

import json
import logging
import sys


def main() -> None:
    """Answer each line, [gold, answer, seconds], by true, false or null (took too long)."""
    from math_verify import parse, verify
    from math_verify.errors import TimeoutException

    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        gold, answer, seconds = json.loads(line)
        try:
            wanted = parse(gold if "\\boxed" in gold or "$" in gold else f"${gold}$", parsing_timeout=seconds)
            wanted = wanted or parse(gold, parsing_timeout=seconds)
            result = verify(
                wanted, parse(answer, parsing_timeout=seconds), timeout_seconds=seconds, raise_on_error=True
            )
        except TimeoutException:
            result = None
        except Exception:
            result = False
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
