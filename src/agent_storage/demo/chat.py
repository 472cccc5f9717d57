"""Conversations of a team: messages, and the tools that were called in them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from agent_storage.demo import words
from agent_storage.demo.unit import Unit
from agent_storage.types import NewConversation, NewMessage, NewToolResult, TextPart, ToolCallPart, ToolResultPart

#: How many conversations a team has.
_CONVERSATIONS = 60


def add(unit: Unit) -> None:
    """Add the team's conversations."""
    for number in range(_CONVERSATIONS):
        _Talk(unit, unit.pick(words.TOPICS), archived=number % 12 == 11).add()


class _Talk:
    """A conversation as it grows: a question, a tool that helps, an answer, and what follows."""

    def __init__(self, unit: Unit, topic: words.Topic, *, archived: bool) -> None:
        self.unit, self.archived, self.begun = unit, archived, unit.moment()
        slots = {"service": unit.pick(unit.services), "person": unit.pick(unit.people)}
        slots["n"] = str(unit.random.randint(2, 9))
        self.topic = _filled(topic, slots)
        self.slots = slots
        self.at, self.position = self.begun, 0
        self.id = unit.id(self.begun)
        self.model: UUID = unit.pick(unit.known.models)[0]
        self.last: UUID | None = None

    def add(self) -> None:
        """All of it; the conversation itself last, when its messages are counted."""
        self._say("system", words.SYSTEM.format(team=self.unit.team))
        self._say("user", self.topic.ask)
        self._use_tool()
        self._say("assistant", self.topic.answer)
        for question, answer in self.unit.random.sample(words.FOLLOW_UPS, self.unit.random.randint(1, 4)):
            self._say("user", question.format(**self.slots))
            self._say("assistant", answer.format(**self.slots))
        self.unit.add(
            "conversations",
            NewConversation,
            self.begun,
            id=self.id,
            title=self.topic.title,
            project_id=self.unit.pick([*self.unit.projects, None]),
            model_id=self.model,
            owner=self.slots["person"],
            metadata={"channel": self.unit.pick(["web", "slack", "cli"]), "user": self.slots["person"]},
            extra={
                "message_count": self.position,
                "last_message_at": self.at,
                "archived_at": self.unit.later(self.at, 600, 3000) if self.archived else None,
                "updated_at": self.at,
            },
        )

    def _say(self, role: str, content: Any, **fields: Any) -> UUID:
        self.at, self.position = self.unit.later(self.at, 2, 40), self.position + 1
        size = len(content if isinstance(content, str) else str(content)) // 4
        tokens = {"input_tokens": 400 + 150 * self.position, "output_tokens": size} if role == "assistant" else {}
        self.last = self.unit.add(
            "messages",
            NewMessage,
            self.at,
            conversation_id=self.id,
            role=role,
            content=content,
            model_id=self.model if role == "assistant" else None,
            parent_id=self.last,
            extra={"position": self.position},
            **tokens,
            **fields,
        )
        return self.last

    def _use_tool(self) -> None:
        tool, call_id = self.topic.tool, f"call_{self.unit.random.getrandbits(48):012x}"
        call = ToolCallPart(id=call_id, name=tool, arguments=self.topic.arguments)
        message = self._say("assistant", [TextPart(text="Let me look."), call])
        asked, failed = self.at, self.unit.random.random() < 0.08  # about one in twelve
        duration = int(self.unit.random.lognormvariate(5.5, 0.8))
        result = {"error": "timed out"} if failed else self.topic.result
        self._log(message, call, asked, result, failed=failed, duration=duration)
        self._say("tool", [ToolResultPart(tool_call_id=call_id, result=result)], tool_call_id=call_id)

    def _log(
        self, message: UUID, call: ToolCallPart, at: datetime, result: Any, *, failed: bool, duration: int
    ) -> None:
        self.unit.add(
            "tool_results",
            NewToolResult,
            at,
            conversation_id=self.id,
            message_id=message,
            tool_config_id=self.unit.known.tools[call.name],
            tool_call_id=call.id,
            tool_name=call.name,
            arguments=call.arguments,
            result=None if failed else result,
            error="timed out after 30 s" if failed else None,
            status="timeout" if failed else "success",
            started_at=at,
            duration_ms=30_000 if failed else duration,
        )


def _filled(topic: words.Topic, slots: dict[str, str]) -> words.Topic:
    """The topic with its slots filled everywhere, also inside arguments and results."""

    def fill(value: Any) -> Any:
        text = orjson.dumps(value).decode()
        for name, word in slots.items():
            text = text.replace("{" + name + "}", word)
        return orjson.loads(text)

    return words.Topic(*map(fill, topic))
