"""One prompt, three caches: python examples/generate.py [MODEL]

MODEL is a local folder or a hub name that transformers can load; without it, the small embedded model answers.
"""

import random
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import cokv


def prompt() -> str:
    """A haystack of about 900 tokens, in words that the embedded model knows, with two numbers to be found in it."""
    rng = random.Random(3)
    filler = [
        f"The {a} {n} {v} {p}."
        for a in ("bold", "silent", "happy", "narrow", "little")
        for n in ("traveller", "gardener", "merchant", "sailor")
        for v in ("walks", "returns", "climbs", "wanders")
        for p in ("behind the bridge", "past the village", "near the harbor")
    ]
    sentences = rng.sample(filler, 100)
    sentences.insert(40, "The secret number of lantern is 1787679.")
    sentences.insert(70, "The secret number of basket is 9592991.")
    question = "What is the secret number of lantern? The secret number of lantern is"
    return f"Remember the secret numbers in this text.\n{' '.join(sentences)}\n{question}"


def main(name: str | None) -> None:
    if name is None:
        loaded = cokv.load_model()
        model, tokenizer = loaded.model, loaded.tokenizer
    else:
        model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    inputs = tokenizer(prompt(), return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    for method, budget in (("full", None), ("snapkv", "20%"), ("streamingllm", "20%")):
        cache = cokv.compress(model, method, kv_budget=budget)
        output = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=torch.ones_like(inputs["input_ids"]),
            past_key_values=cache,
            max_new_tokens=10,
            do_sample=False,
        )
        print(f"{method:13} {tokenizer.decode(output[0, length:], skip_special_tokens=True)!r}\n  {cache.memory()}")


if __name__ == "__main__":
    main(*sys.argv[1:2] or [None])
