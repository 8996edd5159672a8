"""A second question on a compressed text: python examples/chat.py

The text is read and compressed once; each question, and each answer, is read on what the cache holds.
"""

import torch
from generate import prompt

import cokv


def main() -> None:
    loaded = cokv.load_model()
    model, tokenizer = loaded.model, loaded.tokenizer
    text, _, _ = prompt().rpartition("\n")
    conversation = tokenizer(text, return_tensors="pt")["input_ids"]

    cache = cokv.compress(model, "kvzip", kv_budget="40%", tokenizer=tokenizer, chunk_size=256)
    cache.prefill(conversation)  # reads the text, and again to see what it takes to repeat it
    print(f"text of {conversation.shape[1]} tokens: {cache.memory()}")

    for key in ("lantern", "basket"):
        question = f"\nWhat is the secret number of {key}? The secret number of {key} is"
        ids = tokenizer(question, return_tensors="pt", add_special_tokens=False)["input_ids"]
        turn = torch.cat([conversation, ids], dim=1)
        conversation = model.generate(
            input_ids=turn,
            attention_mask=torch.ones_like(turn),
            past_key_values=cache,
            max_new_tokens=8,
            do_sample=False,
        )
        print(f"{key}:{tokenizer.decode(conversation[0, turn.shape[1] :], skip_special_tokens=True)}")
    print(f"after both answers: {cache.memory()}")


if __name__ == "__main__":
    main()
