"""Language vectors: for every layer the mean over sentences of the mean over tokens of the hidden states.

Xu et al. 2023, section 3.1: ``u_s[k] = mean_t h_s[k, t]``, ``v_l[k] = mean_s u_s[k]``; a mean of sentence means, not
weighted by length, of the unmodified model. Whether [CLS], [SEP] and `<s>` are part of a sentence's mean is not said
there: ``specials`` includes them by default, which is the literal reading of "all tokens".

Shape legend: L layers, D hidden, N packed rows.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from methods.backbone.base import Backbone
from methods.backbone.packing import pack_sequences
from methods.backbone.projection import LastLayer
from orchestrator.data import write_atomically

logger = logging.getLogger(__name__)

Specials = Literal["include", "exclude"]
# A sentence as token ids, and which of them count (1) or not (0).
Sentence = tuple[list[int], list[int]]
ROWS_AT_ONCE = 4096
# Of a streamed model: numbers that go through a block at a time, and bytes of states that wait between two blocks. Many
# sentences pass each block together, because it is read anew for every group of them.
STREAMED_NUMBERS = 2**20
STREAMED_BYTES = 128 * 2**20
LONGEST_SENTENCE = 512


@torch.no_grad()
def language_vectors(
    backbone: Backbone,
    sentences: Iterable[Sequence[str]],
    *,
    specials: Specials = "include",
    last_layer: LastLayer = "normed",
    streamed_bytes: int = STREAMED_BYTES,
) -> Tensor:
    """The language vectors of all layers.

    Args:
        backbone: the unmodified model.
        sentences: batches of sentences; longer ones are cut at the model's length (512 tokens at most).
        specials: whether special tokens count as tokens of a sentence.
        last_layer: at layer L take the states after the final norm (``normed``) or before it (``raw``).
        streamed_bytes: of a streamed model, about how many bytes of states pass through its layers together.

    Returns:
        [L, D] float32; row k - 1 belongs to layer k.

    Raises:
        ValueError: if no sentence has a token to average.
    """
    total = torch.zeros(backbone.num_layers, backbone.hidden_size, dtype=torch.float64)
    count = 0
    rows, together = ROWS_AT_ONCE, 1
    if backbone.streamed:
        rows = max(1, STREAMED_NUMBERS // backbone.hidden_size)
        together = max(1, streamed_bytes // (STREAMED_NUMBERS * backbone.dtype.itemsize))
    waiting = _chunks(_tokenized(backbone, sentences, specials), rows)
    while chunks := list(islice(waiting, together)):
        total += _sum_of_means(backbone, chunks, last_layer)
        count += sum(map(len, chunks))
    if not count:
        raise ValueError("no sentence has a token to average: the language has no vector")
    return (total / count).float()


def _tokenized(backbone: Backbone, sentences: Iterable[Sequence[str]], specials: Specials) -> Iterator[list[Sentence]]:
    """Batches of sentences as tokens, those without a token that counts left out."""
    longest = min(LONGEST_SENTENCE, backbone.max_length or LONGEST_SENTENCE)
    for batch in filter(None, sentences):
        encoded = backbone.tokenizer(
            list(batch), truncation=True, max_length=longest, return_special_tokens_mask=True, add_special_tokens=True
        )
        kept = []
        for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
            weights = [1] * len(ids) if specials == "include" else [1 - flag for flag in special]
            if sum(weights):
                kept.append((ids, weights))
        yield kept


def random_like(shift: Tensor, seed: int, language: str) -> Tensor:
    """A shift in random directions that is otherwise like `shift`: a control for the layer search.

    Every layer keeps its norm, and every two layers their angle, because how far LIRP and LSRP undo each other depends
    on both: the span of the layers' shifts is turned as a whole to a random place.

    Args:
        shift: [L + 1, D], row 0 unused (zero).
        seed, language: the same for the same two on every machine.
    """
    digest = hashlib.sha256(f"{seed}|{language}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    wide = shift.double().cpu()
    _, coordinates = torch.linalg.qr(wide.T)
    noise = torch.randn(wide.shape[1], coordinates.shape[0], generator=generator, dtype=torch.float64)
    directions, _ = torch.linalg.qr(noise)
    return (directions @ coordinates).T.to(shift)


def _chunks(batches: Iterable[list[Sentence]], most_rows: int) -> Iterator[list[Sentence]]:
    """Cuts each batch, longest sentences together, into chunks of about so many tokens."""
    for sentences in batches:
        chunk: list[Sentence] = []
        rows = 0
        for sentence in sorted(sentences, key=lambda s: len(s[0])):
            if chunk and rows + len(sentence[0]) > most_rows:
                yield chunk
                chunk, rows = [], 0
            chunk.append(sentence)
            rows += len(sentence[0])
        if chunk:
            yield chunk


def _sum_of_means(backbone: Backbone, chunks: Sequence[list[Sentence]], last_layer: LastLayer) -> Tensor:
    """Sum over sentences of their token means, [L, D] float64 on the CPU; all chunks pass a block before the next."""
    sums = torch.zeros(backbone.num_layers, backbone.hidden_size, dtype=torch.float64)
    weights, plans, states = [], [], []
    for sentences in chunks:
        pack, order = pack_sequences([ids for ids, _ in sentences], [()] * len(sentences))
        counted = [torch.tensor(sentences[n][1], dtype=torch.float64) / sum(sentences[n][1]) for n in order]
        weights.append(torch.cat(counted))
        plans.append(backbone.plan(pack))
        states.append(backbone.embed(plans[-1])[None])
    for k in range(1, backbone.num_layers + 1):
        normed = k == backbone.num_layers and last_layer == "normed"
        with backbone.block(k) as device:
            for n, (weight, plan) in enumerate(zip(weights, plans, strict=True)):
                states[n] = backbone.layer(k, states[n].to(device), plan)
                h = backbone.final(states[n]) if normed else states[n]
                sums[k - 1] += (weight.to(device) @ h[0].double()).cpu()
    return sums


def cached_vectors(
    backbone: Backbone,
    sentences: Iterable[Sequence[str]],
    *,
    path: Path,
    specials: Specials,
    last_layer: LastLayer,
    streamed_bytes: int = STREAMED_BYTES,
) -> Tensor:
    """`language_vectors`, computed once per file: the first process that asks computes, the others wait and read.

    A damaged file is replaced.

    Args:
        path: content-addressed by the caller: it must name model, sentences and options.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists():
            try:
                return load_file(path)["vectors"]
            except (SafetensorError, KeyError) as error:
                logger.warning("%s is damaged (%s): its vectors are computed again", path, error)
        vectors = language_vectors(
            backbone, sentences, specials=specials, last_layer=last_layer, streamed_bytes=streamed_bytes
        )
        write_atomically(path, lambda file: file.write(save({"vectors": vectors.contiguous()})))
        return vectors
