"""
The worker process of `toolkit.reward.math_equality`: one JSON line in, one out.

Started as a script (`python -I math_worker.py`) and never imported.
"""

# math-verify limits its time by a signal, which works in a main thread only. This process has one, and can be killed if
# it ignores the signal.
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
            # math-verify parses LaTeX only between dollars or in a box; plain text is the second try.
            target = parse(gold if "\\boxed" in gold or "$" in gold else f"${gold}$", parsing_timeout=seconds)
            target = target or parse(gold, parsing_timeout=seconds)
            value = parse(answer, parsing_timeout=seconds)
            result = verify(target, value, timeout_seconds=seconds, raise_on_error=True)
        except TimeoutException:
            result = None
        except Exception:
            result = False
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
