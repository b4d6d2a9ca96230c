"""Small random models of several families, and a tokenizer that needs no download."""

from __future__ import annotations

import dataclasses

import torch
from transformers import (
    CONFIG_MAPPING,
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
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


SMALL = {
    **{"vocab_size": WORDS, "num_labels": 3, "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64, "dropout": 0.0},
    **{"hidden_size": 32, "n_embd": 32, "d_model": 32, "dim": 32, "emb_dim": 32, "embedding_size": 32, "word_embed_proj_dim": 32},
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers"), 3
    ),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "n_inner", "d_ff", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_inner"), 48),
    **{"num_key_value_heads": 2, "head_dim": 8, "d_kv": 8, "rotary_dim": 4},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
}
OF_KIND = {"gpt_neo": {"attention_types": [[["global"], 3]]}, "t5": {"decoder_start_token_id": 2}}


def tiny(kind: str):
    """A small random classifier of any of transformers' types, three layers of four heads, that attends sharply enough."""
    cls = CONFIG_MAPPING[kind]
    known = {field.name for field in dataclasses.fields(cls)} | {"num_labels"}
    config = cls(**{name: value for name, value in SMALL.items() if name in known} | OF_KIND.get(kind, {}))
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model
