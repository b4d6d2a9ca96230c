"""Small random models of several families, and a tokenizer that needs no download."""

from __future__ import annotations

import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

WORDS = 40


def bert(layers: int = 3, heads: int = 4, **options) -> BertForSequenceClassification:
    """A random BERT that attends sharply enough for its attention to matter."""
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=48,
        num_labels=3,
        initializer_range=0.15,
        **options,
    )
    torch.manual_seed(0)
    return BertForSequenceClassification(config).eval()


def family(name: str):
    """A random classifier of another family."""
    torch.manual_seed(0)
    common = {"vocab_size": WORDS, "num_labels": 3, "initializer_range": 0.15}
    usual = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    models = {
        "bert": lambda: bert(),
        "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**common, **usual, pad_token_id=1)),
        "distilbert": lambda: DistilBertForSequenceClassification(DistilBertConfig(**common, dim=32, n_layers=3, n_heads=4, hidden_dim=48)),
        "albert": lambda: AlbertForSequenceClassification(AlbertConfig(**common, **usual, embedding_size=16)),
        "gpt2": lambda: GPT2ForSequenceClassification(GPT2Config(**common, n_embd=32, n_layer=3, n_head=4, n_positions=64, pad_token_id=0)),
        "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**common, **usual, num_key_value_heads=2, pad_token_id=0)),
    }
    return models[name]().eval()


FAMILIES = ("bert", "roberta", "distilbert", "albert", "gpt2", "llama")


def inputs(lengths: list[int], seed: int = 1) -> dict[str, torch.Tensor]:
    """Random token ids, padded on the right, with their mask. Ids 0 and 1 are kept for padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, WORDS, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}
