"""Answers chats with a GGUF file: JSON on standard input, a JSON list of answers on standard output. Run as a process of its own."""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Read {file, new_tokens, chats}, write the greedy answers. The chat template is the file's own."""
    asked = json.load(sys.stdin)
    kept, silent = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)   # llama.cpp writes to standard output when it likes
    from llama_cpp import Llama

    model = Llama(asked["file"], n_ctx=0, verbose=False, seed=0)
    answers = []
    for chat in asked["chats"]:
        reply = model.create_chat_completion(chat, temperature=0.0, repeat_penalty=1.0, max_tokens=asked["new_tokens"])
        answers.append(reply["choices"][0]["message"]["content"] or "")
    with os.fdopen(kept, "w", encoding="utf-8") as out:
        json.dump(answers, out)


if __name__ == "__main__":
    main()
