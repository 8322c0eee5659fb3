"""Trains the built-in models: `atlas-bert`, a BertForMaskedLM, and `atlas-bloom`, a BloomForCausalLM, on atlas text.

    python -m atlas.train_models --model bert --minutes 30
    python -m atlas.train_models --model bloom --steps 4000

Shape legend: B sentences of a tile, T tokens, D hidden, V vocabulary, K positions with a label.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from atlas.tokenizer_training import LONGEST, byte_level_bpe, wordpiece
from atlas.training_text import Sentence, TrainingText

log = logging.getLogger("atlas.train")

NO_LABEL = -100
HIDDEN, LAYERS, HEADS = 128, 6, 4
BATCH, TILES = 48, 2  # sentences per step; tiles of similar length, so that little is padding
WARM_UP, LAST_RATE = 300, 0.02  # steps; share of the learning rate at the end
OBJECT_MASKED, OTHER_TOO, TOKEN_MASKED = 0.9, 0.2, 0.15  # masking, see mask_tokens
CONTEXT_LABELS = 0.2  # share of the tokens outside the object that the causal model is trained on, see causal_labels

Encoded = tuple[list[int], int, int]  # token ids with specials; first and one past the last token of the object


def masked_model(text: TrainingText) -> tuple[BertForMaskedLM, PreTrainedTokenizerFast]:
    """An untrained `atlas-bert` and its tokenizer."""
    tokenizer = wordpiece(text.corpus(), vocabulary=6000)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=LONGEST,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    return BertForMaskedLM(config), tokenizer


def causal_model(text: TrainingText) -> tuple[BloomForCausalLM, PreTrainedTokenizerFast]:
    """An untrained `atlas-bloom` and its tokenizer."""
    tokenizer = byte_level_bpe(text.corpus(), vocabulary=5500)
    config = BloomConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return BloomForCausalLM(config), tokenizer


def masked_encoder(tokenizer: PreTrainedTokenizerFast) -> Callable[[Sentence], Encoded]:
    """Tokens of a sentence as a cloze has them: what stands around the object is cut off, as a mask cuts it."""
    pieces = lru_cache(maxsize=100_000)(lambda part: tokenizer(part, add_special_tokens=False).input_ids)

    def encode(sentence: Sentence) -> Encoded:
        before, obj, after = pieces(sentence.before), pieces(sentence.object), pieces(sentence.after)
        first = 1 + len(before)
        return [tokenizer.cls_token_id, *before, *obj, *after, tokenizer.sep_token_id], first, first + len(obj)

    return encode


def causal_encoder(tokenizer: PreTrainedTokenizerFast) -> Callable[[Sentence], Encoded]:
    """Tokens of the whole sentence behind ``<s>``; the object is every token that holds a character of it."""

    @lru_cache(maxsize=100_000)
    def encode(sentence: Sentence) -> Encoded:
        coded = tokenizer(sentence.text, return_offsets_mapping=True)
        start, stop = len(sentence.before), len(sentence.before) + len(sentence.object)
        inside = [k for k, (a, b) in enumerate(coded.offset_mapping) if a < stop and b > start]
        return [tokenizer.bos_token_id, *coded.input_ids], 1 + inside[0], 2 + inside[-1]

    return encode


def mask_tokens(item: Encoded, mask_id: int, rng: random.Random) -> tuple[list[int], list[int]]:
    """Input ids and labels: mostly the whole object is masked; else, and at times too, single tokens are."""
    ids, first, last = list(item[0]), item[1], item[2]
    labels = [NO_LABEL] * len(ids)
    object_masked = rng.random() < OBJECT_MASKED
    if object_masked:
        for k in range(first, last):
            labels[k], ids[k] = ids[k], mask_id
    if not object_masked or rng.random() < OTHER_TOO:
        for k in range(1, len(ids) - 1):
            if labels[k] == NO_LABEL and rng.random() < TOKEN_MASKED:
                labels[k], ids[k] = ids[k], mask_id
    return ids, labels


def causal_labels(item: Encoded, rng: random.Random) -> tuple[list[int], list[int]]:
    """Input ids and, per position, the next token as label: all of the object, of the rest a random share.

    A subject cannot be foreseen; leaving most of the rest out spends the time of the vocabulary head on the facts.
    """
    ids, first, last = item
    labels = [NO_LABEL] * len(ids)
    for k in range(1, len(ids)):
        if first <= k < last or rng.random() < CONTEXT_LABELS:
            labels[k - 1] = ids[k]
    return ids, labels


def tiles(items: Sequence[tuple[list[int], list[int]]], pad_id: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields (ids, attention mask, labels), each (B, T), of TILES groups of similar length."""
    by_length = sorted(items, key=lambda item: len(item[0]))
    size = -(-len(by_length) // TILES)
    for start in range(0, len(by_length), size):
        tile = by_length[start : start + size]
        longest = len(tile[-1][0])
        ids = torch.tensor([ids + [pad_id] * (longest - len(ids)) for ids, _ in tile])
        labels = torch.tensor([labels + [NO_LABEL] * (longest - len(labels)) for _, labels in tile])
        lengths = torch.tensor([len(ids) for ids, _ in tile])
        yield ids, (torch.arange(longest) < lengths[:, None]).long(), labels


def tile_loss(model: PreTrainedModel, ids: Tensor, attended: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy of a tile; the vocabulary head sees only the K positions with a label."""
    states = model.base_model(input_ids=ids, attention_mask=attended).last_hidden_state  # (B, T, D)
    chosen = labels != NO_LABEL
    head = model.cls if isinstance(model, BertForMaskedLM) else model.lm_head
    return cross_entropy(head(states[chosen]), labels[chosen], reduction="sum")  # (K, V) and (K,)


def optimizer_for(model: PreTrainedModel, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW; biases and layer norms do not decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, record: dict[str, object]) -> None:
    """Writes an ordinary Hugging Face folder, and how it came about as training.json."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def train(kind: str, folder: Path, *, steps: int | None, minutes: float | None, seed: int, rate: float) -> None:
    """Trains one model and saves it to `folder`, on the way too, once a minute.

    Args:
        kind: "bert" or "bloom".
        steps: optimizer steps; the same steps and seed give the same model. None: until `minutes` have passed.
        minutes: the learning rate falls to its end over this time where `steps` is None.
        rate: highest learning rate.
    """
    random.seed(seed)
    torch.manual_seed(seed)
    text = TrainingText(seed=seed)
    rng = random.Random(seed + 1)
    masked = kind == "bert"
    model, tokenizer = masked_model(text) if masked else causal_model(text)
    encode = masked_encoder(tokenizer) if masked else causal_encoder(tokenizer)

    def prepare(sentence: Sentence) -> tuple[list[int], list[int]]:
        item = encode(sentence)
        return mask_tokens(item, tokenizer.mask_token_id, rng) if masked else causal_labels(item, rng)

    optimizer = optimizer_for(model, weight_decay=0.01)
    log.info("%s: %.2fM parameters, vocabulary %d", kind, model.num_parameters() / 1e6, len(tokenizer))
    began = saved = time.monotonic()
    step, smooth = 0, 0.0
    model.train()
    for batch in text.batches(BATCH):
        elapsed = time.monotonic() - began
        progress = step / steps if steps else elapsed / (60 * (minutes or 1))
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / WARM_UP) * max(LAST_RATE, 1 - progress)
        items = [prepare(sentence) for sentence in batch]
        labelled = sum(label != NO_LABEL for _, labels in items for label in labels)
        optimizer.zero_grad()
        total = 0.0
        for ids, attended, labels in tiles(items, tokenizer.pad_token_id):
            loss = tile_loss(model, ids, attended, labels) / labelled
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        smooth = total if step == 1 else 0.98 * smooth + 0.02 * total
        if step % 50 == 0:
            log.info("step %d, %.1f minutes, loss %.3f", step, elapsed / 60, smooth)
        if time.monotonic() - saved > 60:
            save(model, tokenizer, folder, {"kind": kind, "steps": step, "finished": False})
            saved = time.monotonic()
    length = f"--steps {steps}" if steps else f"--minutes {minutes:g}"
    record = {
        "kind": kind,
        "command": f"python -m atlas.train_models --model {kind} {length} --seed {seed} --rate {rate:g}",
        "steps": step,
        "batch": BATCH,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "mixture": asdict(text.mixture),
        "loss": round(smooth, 4),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "finished": True,
    }
    save(model, tokenizer, folder, record)
    log.info("saved %s", folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a built-in model on atlas text (one CPU core is enough).")
    parser.add_argument("--model", choices=("bert", "bloom"), required=True, help="which of the two")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int, help="train so many steps: the same seed gives the same model")
    length.add_argument("--minutes", type=float, help="train so long instead")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and masks (default: 0)")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate (default: 0.002)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--output", type=Path, help="folder (default: models/atlas-<model> beside this file)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    folder = options.output or Path(__file__).resolve().parent / "models" / f"atlas-{options.model}"
    train(
        options.model,
        folder,
        steps=options.steps,
        minutes=options.minutes,
        seed=options.seed,
        rate=options.rate,
    )


if __name__ == "__main__":
    main()
