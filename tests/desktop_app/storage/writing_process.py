"""A process that writes turns and feedback for ever and says what was acknowledged.

Each line of its stdout names a row that is on disk by promise: the tests kill it at a random
moment and look whether the promise held.
"""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

from desktop_app.storage.chat_store import ChatStore
from desktop_app.storage.database import Database, now
from desktop_app.storage.feedback_store import FeedbackStore
from finetune.contract.chat_template import Message
from finetune.contract.records import Completion, Rating


def main(path: Path) -> None:
    database = Database(path)
    chats, feedback = ChatStore(database), FeedbackStore(database)
    conversation = chats.create_conversation()
    print(f"conversation {conversation.id}", flush=True)
    parent = None
    for number in range(1_000_000):
        asked = chats.add_message(conversation.id, parent, "user", f"question {number} 질문")
        print(f"message {asked.id}", flush=True)
        answer = chats.add_message(conversation.id, asked.id, "assistant", "", state="partial")
        for piece in range(3):
            chats.update_message(answer.id, "word " * piece, "partial")
        chats.update_message(answer.id, "word " * 3, "done")
        print(f"message {answer.id}", flush=True)
        rating = Rating(
            uuid.uuid4().hex,
            conversation.id,
            (Message("user", asked.content),),
            Completion("word word word"),
            liked=number % 2 == 0,
            created_at=now(),
        )
        feedback.add(answer.id, rating)
        print(f"feedback {rating.id}", flush=True)
        parent = answer.id


if __name__ == "__main__":
    main(Path(sys.argv[1]))
