"""Rows, messages and traces in the form that reward functions of other libraries expect."""

from typing import Any

from edgewise.toolkit.types import Example, Message, Rollout

# Column names that reward functions commonly use for the target and for the question.
TARGET = ("target", "answer", "solution", "ground_truth", "truth", "correct_answer", "label", "expected")
TARGET += ("reference", "gold")
QUESTION = ("question", "prompt", "input", "query", "problem")


class View(dict[str, Any]):
    """A row or a trace whose fields are both items and attributes."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"there is no field {name!r}; there is {', '.join(map(str, self))}")


def build_trace(task: View, rollout: Rollout, metrics: dict[str, Any]) -> View:
    """Return a rollout as verifiers' trace; what the function records goes into `metrics`."""
    # The fields that rewards of verifiers' environments read; those that only its own runtime fills are empty.
    replies = [message_view(step.completion) for step in rollout.steps]
    messages = [message_view(message) for message in list_messages(rollout)]
    return View(
        task=task,
        messages=messages,
        assistant_messages=replies,
        tool_messages=[message for message in messages if message.role == "tool"],
        last_message=replies[-1] if replies else None,
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


def list_messages(rollout: Rollout) -> tuple[Message, ...]:
    """Return all messages of a rollout."""
    # The prompt of the last turn holds the whole conversation before it.
    return (*rollout.steps[-1].prompt, rollout.steps[-1].completion) if rollout.steps else ()


def message_view(message: Message) -> View:
    """Return a chat message as a view; `tool_calls` is None without any, as in OpenAI's format."""
    calls = [View(id=call.id, name=call.name, arguments=call.arguments) for call in message.tool_calls]
    return View(role=message.role, content=message.content, tool_calls=calls or None)


def row_columns(example: Example) -> dict[str, Any]:
    """Return the row's columns, with its target and question under common names where the row has no such column."""
    # The row's own columns win over the aliases.
    aliases = dict.fromkeys(QUESTION, last_question(example)) | dict.fromkeys(TARGET, example.target)
    return {"id": example.id, **aliases, **example.metadata}


def last_question(example: Example) -> str:
    """Return the last user message, or ""."""
    questions = [message.content for message in example.messages if message.role == "user"]
    return questions[-1] if questions else ""
