"""A text read once, compressed, and shipped as a file, which another process asks questions on:

    python examples/saved_context.py read text.cokv
    python examples/saved_context.py ask text.cokv lantern basket

The second process never sees the text: what the cache holds and the ids of the tokens read are in the file.
"""

import sys
from pathlib import Path

import torch
from generate import prompt

import cokv


def read(path: str) -> None:
    loaded = cokv.load_model()
    model, tokenizer = loaded.model, loaded.tokenizer
    text, _, _ = prompt().rpartition("\n")
    ids = tokenizer(text, return_tensors="pt")["input_ids"]

    cache = cokv.compress(model, "kvzip", kv_budget="40%", tokenizer=tokenizer, chunk_size=256)
    cache.prefill(ids)
    cache.save(path)
    print(f"text of {ids.shape[1]} tokens: {cache.memory()}; {Path(path).stat().st_size / (1 << 20):.2f} MiB on disk")


def ask(path: str, keys: list[str]) -> None:
    loaded = cokv.load_model()
    model, tokenizer = loaded.model, loaded.tokenizer

    for key in keys:
        cache = cokv.load_cache(model, path)  # refused for any other model
        question = f"\nWhat is the secret number of {key}? The secret number of {key} is"
        ids = tokenizer(question, return_tensors="pt", add_special_tokens=False)["input_ids"]
        ids = torch.cat([cache.input_ids, ids], dim=1)
        answer = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            max_new_tokens=8,
            do_sample=False,
        )
        print(f"{key}:{tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)}")


if __name__ == "__main__":
    command, path, *keys = sys.argv[1:]
    read(path) if command == "read" else ask(path, keys)
