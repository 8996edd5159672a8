"""Small byte-level tokenizers with chat templates of the two usual kinds."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ruler.generate import generate

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
SPECIAL = {
    CHATML: ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    LLAMA3: ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
}


class _Letters:
    """Counts a token per character, to draw text before there is a tokenizer."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [0] * len(text)


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    """End token: that of plain text, as in many conversions, not that of a turn. Llama-3's adds BOS by itself too."""
    special = SPECIAL[template]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [s.prompt + (s.gold or "") for s in generate("niah_single_1", _Letters(), 1200, 3, 0, "mini")]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, "system user assistant You are helpful."], trainer)
    names = {"eos_token": special[0]}
    if template == LLAMA3:
        bos, end = special[:2]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        names = {"bos_token": bos, "eos_token": end}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=special[-3:], pad_token=special[0], **names
    )
    wrapped.chat_template = template
    return wrapped
