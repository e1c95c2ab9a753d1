"""What other libraries' reward functions are handed in place of their own objects: rows, messages, traces."""

from typing import Any

from edgewise.toolkit.types import Example, Message, Rollout

TARGET = ("target", "answer", "solution", "ground_truth", "truth", "correct_answer", "label", "expected")
TARGET += ("reference", "gold")
QUESTION = ("question", "prompt", "input", "query", "problem")


class View(dict[str, Any]):
    """A row or a run as other libraries hand it over: each field is an item and an attribute."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"there is no field {name!r}; there is {', '.join(map(str, self))}")


def build_trace(task: View, rollout: Rollout, metrics: dict[str, Any]) -> View:
    """A run as verifiers shows it; what the function records goes into `metrics`."""
    said = [message_view(step.completion) for step in rollout.steps]
    messages = [message_view(message) for message in transcript(rollout)]
    return View(
        task=task,
        messages=messages,
        assistant_messages=said,
        tool_messages=[message for message in messages if message.role == "tool"],
        last_message=said[-1] if said else None,
        last_reply=rollout.answer.strip(),
        root_reply=None,
        num_turns=len(rollout.steps),
        num_output_tokens=rollout.usage.output,
        num_input_tokens=rollout.usage.input,
        stop_condition=rollout.stop,
        is_truncated=rollout.stop in ("length", "turns"),
        is_completed=True,
        has_error=False,
        errors=[],
        transcript="\n\n".join(f"{message.role}: {message.content}" for message in messages),
        info={},
        state=View(),
        metrics=metrics,
        record_metric=metrics.__setitem__,
        record_metrics=metrics.update,
    )


def transcript(rollout: Rollout) -> tuple[Message, ...]:
    """All messages of a run, as the last turn saw them."""
    return (*rollout.steps[-1].prompt, rollout.steps[-1].completion) if rollout.steps else ()


def message_view(message: Message) -> View:
    """A chat message."""
    calls = [View(id=call.id, name=call.name, arguments=call.arguments) for call in message.tool_calls]
    return View(role=message.role, content=message.content, tool_calls=calls or None)


def row_columns(example: Example) -> dict[str, Any]:
    """The row's columns, and its target and question under the names that functions look for."""
    aliases = dict.fromkeys(QUESTION, last_question(example)) | dict.fromkeys(TARGET, example.target)
    return {"id": example.id, **aliases, **example.metadata}


def last_question(example: Example) -> str:
    """What the user asks last."""
    asked = [message.content for message in example.messages if message.role == "user"]
    return asked[-1] if asked else ""
