"""RULER's protocol in words, as `cokv protocols` shows it: what the official code does, and what can be chosen here."""

RELEASED = "NVIDIA/RULER scripts/data/prepare.py, scripts/data/synthetic/*.py, scripts/eval/synthetic/constants.py"

PROTOCOL: dict[str, tuple[str, str]] = {
    "chat": (
        "context and question are the user's turn of a template written out per model family",
        "task: of the tokenizer's own template, its system prompt included, where it has one; never: bare. "
        "Prepared `data` is read as it stands: the official generator has put a template in; kvpress's copy on the "
        "hub has none and is wrapped, as kvpress does",
    ),
    "answer_prefix": ("behind the template's generation prompt, with its leading space", "the same; bare: behind all"),
    "length": (
        "prompt, template, answer prefix and tokens to generate, without specials that the tokenizer adds",
        "the same, searched by single units of the haystack",
    ),
    "max_new_tokens": ("128 niah, 30 vt, 120 cwe, 50 fwe, 32 qa", "the same (preset mini has its own: cokv tasks)"),
    "truncation": ("none: every prompt is fitted", "the same"),
    "stop": (
        "the serving engine's end tokens",
        "end tokens of the chat template's turn, the generation config and the tokenizer",
    ),
    "metric": (
        "case-insensitive substring; mean share of references (niah, vt, cwe, fwe), any reference (qa)",
        "the same",
    ),
    "query_aware": ("the whole prompt is read at once", "query_aware of the experiment; false: question, end of turn "
                    "and prefix are read on the compressed cache"),
}  # fmt: skip
"""Field -> (the official code, here)."""
