"""Builds the embedded tokenizer: whole words, numbers in pairs of digits, bytes for everything else.

Lossless on any text. A word-level vocabulary keeps one token per key word (so retrieval circuits stay small); bytes
make any other text encodable. It is a byte-level BPE without merges: `ignore_merges` looks whole pieces up in the
vocabulary, and an unknown piece becomes its bytes.
"""

import argparse
import random
import re
from collections import Counter
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from cokv.embedded import WEIGHTS
from longbench.mini import generate as longbench_mini
from longbench.mini import words as longbench_words
from ruler import words
from ruler.generate import draft
from ruler.tasks import TASKS

SPECIALS = ("<pad>", "<bos>", "<eos>")
PATTERN = r" ?[A-Za-z]+|[0-9]{2}|[0-9]| ?[^\sA-Za-z0-9]|\n|\s"


def corpus(drafts_per_task: int, seed: int) -> Counter[str]:
    """Pieces of generated prompts and answers, counted."""
    rng, pieces = random.Random(seed), Counter[str]()
    for task in TASKS["mini"].values():
        for _ in range(drafts_per_task):
            drawn = draft(task, rng.randrange(20, 60), rng)
            pieces.update(re.findall(PATTERN, drawn.prompt + drawn.gold))
    return pieces


def longbench_corpus(drafts_per_task: int, seed: int) -> Counter[str]:
    """The same of the small LongBench stand-ins."""
    rng, pieces = random.Random(seed), Counter[str]()
    for name, draft_of in longbench_mini.BUILDERS.items():
        for _ in range(drafts_per_task):
            drawn = draft_of(rng.randrange(10, 40), rng)
            for query in drawn.queries:
                pieces.update(re.findall(PATTERN, longbench_mini.prompt(name, "", query) + query.gold))
            pieces.update(re.findall(PATTERN, drawn.context))
    return pieces


def build() -> Tokenizer:
    """The tokenizer: specials, 256 bytes, numbers, RULER's words in a fixed order, then those LongBench adds.

    Later pieces come last, so that earlier ids never change.
    """
    lists = (words.KEYS, words.ADJECTIVES, words.PEOPLE, words.PLACES, words.THINGS, words.VERBS_MOVE, words.VERBS_ACT)
    more = (words.PREPOSITIONS, words.TIMES, words.NAMES, words.MATERIALS, words.BUILDINGS, words.COLORS, words.ANIMALS)
    spaced = [f" {w}" for group in (*lists, *more, words.BOXES) for w in group]
    frequent = sorted(piece for piece, count in corpus(40, seed=0).items() if count >= 20)
    numbers = [f"{i:02d}" for i in range(100)]
    starts = sorted({*words.NAMES, *words.BOXES})  # at the start of a line
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    later = sorted(piece for piece, count in longbench_corpus(60, seed=0).items() if count >= 3)
    later += [*longbench_words.KEYS, *longbench_words.NAMES]  # in names of functions, at the start of a line
    pieces = [byte_level.pre_tokenize_str(p)[0][0] for p in (*numbers, *spaced, *frequent, *starts, *later)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys((*SPECIALS, *alphabet, *pieces)))}

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    bos = ("<bos>", token_id(tokenizer, "<bos>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that must be in the vocabulary, such as a special one."""
    number = tokenizer.token_to_id(token)
    assert number is not None, f"the vocabulary has no {token}"
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS / "tokenizer.json")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = build()
    tokenizer.save(str(args.out))
    print(f"{args.out}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
