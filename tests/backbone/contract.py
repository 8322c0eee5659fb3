"""What every backbone must do, as a class to inherit from.

Shape legend: B branches, N packed rows, M needed rows, T tokens, L layers, D hidden size, V vocabulary.
"""

from __future__ import annotations

import functools
import hashlib
import random
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.backbone import Backbone, Pack, Segment, pack_sequences
from tests.backbone.tiny import tiny

# Inherited tests run once per subclass, which hypothesis would warn of.
PROPERTY = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


@functools.cache
def cached_tiny(family: str, dtype: torch.dtype, prefer: Literal["fast", "generic"], options: str) -> Backbone:
    """One model for all tests of a class; they must not change it, and one of them checks that."""
    return tiny(family, dtype=dtype, prefer=prefer, **eval(options))


class BackboneContract:
    """Inherit and set `family` to a key of ``tests.backbone.tiny.FAMILIES``.

    Attributes:
        prefer: which path is tested.
        options: further configuration values of the tiny model.
        float64_tolerance: how near to Hugging Face in float64; larger where Hugging Face computes parts in float32.
    """

    family: ClassVar[str]
    prefer: ClassVar[Literal["fast", "generic"]] = "fast"
    options: ClassVar[dict[str, Any]] = {}
    float64_tolerance: ClassVar[float] = 1e-9

    def backbone(self, dtype: torch.dtype = torch.float64) -> Backbone:
        return cached_tiny(self.family, dtype, self.prefer, repr(self.options))

    @pytest.fixture(autouse=True)
    def _without_gradients(self) -> Any:
        with torch.no_grad():
            yield

    def test_the_expected_path_is_tested(self) -> None:
        assert self.backbone().fast == (self.prefer == "fast")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_every_layer_and_the_logits_equal_hugging_face_on_a_padded_batch(self, dtype: torch.dtype) -> None:
        backbone = self.backbone(dtype)
        tolerance = 1e-4 if dtype == torch.float32 else self.float64_tolerance
        sequences = random_sequences(backbone, [7, 1, 4, 7, 11])
        expected = hugging_face(backbone, sequences)
        pack, order = pack_sequences(sequences)
        states = all_layers(backbone, pack)
        assert len(expected["hidden_states"]) == len(states) == backbone.num_layers + 1
        # Hugging Face's last state lies behind the final norm.
        states[-1] = backbone.final(states[-1])
        for k, state in enumerate(states):
            for index, rows in zip(order, by_sequence(pack, state), strict=True):
                torch.testing.assert_close(
                    rows, expected["hidden_states"][k][index, : len(rows)], atol=tolerance, rtol=tolerance
                )
        for index, rows in zip(order, by_sequence(pack, logits(backbone, states[-1])), strict=True):
            assert rows.shape[-1] == backbone.vocab_size
            torch.testing.assert_close(
                rows, expected["logits"][index, : len(rows)], atol=10 * tolerance, rtol=tolerance
            )

    def test_a_shift_between_layers_equals_a_hook_on_the_model(self) -> None:
        backbone = self.backbone()
        (sequence,) = random_sequences(backbone, [6])
        shift = torch.randn(backbone.hidden_size, dtype=torch.float64)

        def hook(_: Any, __: Any, result: Any) -> Any:
            return result + shift if isinstance(result, Tensor) else (result[0] + shift, *result[1:])

        handle = backbone.blocks[1].register_forward_hook(hook, prepend=True)
        expected = hugging_face(backbone, [sequence])["logits"][0]
        handle.remove()
        plan = backbone.plan(pack_sequences([sequence])[0])
        x = backbone.layer(2, backbone.layer(1, backbone.embed(plan)[None], plan), plan) + shift
        for k in range(3, backbone.num_layers + 1):
            x = backbone.layer(k, x, plan)
        tolerance = 10 * self.float64_tolerance
        torch.testing.assert_close(logits(backbone, backbone.final(x[0])), expected, atol=tolerance, rtol=tolerance)

    @PROPERTY
    @given(LENGTHS, st.integers(0, 1000))
    def test_packed_together_equals_each_alone(self, lengths: list[int], seed: int) -> None:
        backbone = self.backbone()
        sequences = random_sequences(backbone, lengths, seed)
        pack, order = pack_sequences(sequences)
        together = all_layers(backbone, pack)
        for index, rows in zip(order, by_sequence(pack, together[-1]), strict=True):
            alone = all_layers(backbone, pack_sequences([sequences[index]])[0])[-1]
            torch.testing.assert_close(rows, alone, atol=1e-10, rtol=1e-10)

    @PROPERTY
    @given(LENGTHS, st.integers(0, 1000), st.booleans())
    def test_needed_rows_equal_the_rows_of_all(self, lengths: list[int], seed: int, one_each: bool) -> None:
        backbone = self.backbone()
        choose = random.Random(seed)
        need = [sorted(choose.sample(range(n), 1 if one_each else choose.randint(0, n))) for n in lengths]
        pack, _ = pack_sequences(random_sequences(backbone, lengths, seed), need)
        plan = backbone.plan(pack)
        x = random_states(backbone, 2, pack.rows)
        for k in (1, backbone.num_layers):
            needed = backbone.layer(k, x, plan, need=True)
            assert needed.shape == (2, len(pack.need), backbone.hidden_size)
            torch.testing.assert_close(needed, backbone.layer(k, x, plan)[:, pack.need], atol=1e-10, rtol=1e-10)

    def test_branches_do_not_meet_each_other(self) -> None:
        backbone = self.backbone()
        pack, _ = pack_sequences(random_sequences(backbone, [5, 3, 5, 8]))
        plan = backbone.plan(pack)
        x = random_states(backbone, 3, pack.rows)
        kept = x.clone()
        for k in range(1, backbone.num_layers + 1):
            y = backbone.layer(k, x, plan)
            alone = torch.cat([backbone.layer(k, x[b : b + 1], plan) for b in range(3)])
            torch.testing.assert_close(y, alone, atol=1e-10, rtol=1e-10)
            assert torch.equal(x, kept), "a layer must not write into the states it is given"
            x, kept = y, y.clone()

    def test_one_token(self) -> None:
        backbone = self.backbone()
        (sequence,) = random_sequences(backbone, [1])
        states = all_layers(backbone, pack_sequences([sequence])[0])
        expected = hugging_face(backbone, [sequence])["hidden_states"]
        tolerance = self.float64_tolerance
        torch.testing.assert_close(states[1], expected[1][0], atol=tolerance, rtol=tolerance)

    def test_the_same_pack_gives_the_same_bits(self) -> None:
        backbone = self.backbone(torch.float32)
        pack, _ = pack_sequences(random_sequences(backbone, [5, 9, 5]))
        first, second = all_layers(backbone, pack)[-1], all_layers(backbone, pack)[-1]
        assert torch.equal(first, second)

    def test_the_model_is_left_as_it_was(self) -> None:
        backbone = self.backbone()
        before = model_state(backbone)
        pack, _ = pack_sequences(random_sequences(backbone, [4, 70 if backbone.max_length is None else 9]))
        logits(backbone, backbone.final(all_layers(backbone, pack)[-1]))
        assert model_state(backbone) == before

    def test_final_and_transform_take_any_leading_shape(self) -> None:
        backbone = self.backbone()
        x = random_states(backbone, 2, 3)
        for function in (backbone.final, backbone.transform):
            torch.testing.assert_close(function(x)[1, 2], function(x[1, 2:])[0], atol=1e-10, rtol=1e-10)

    def test_the_plan_counts_its_bytes(self) -> None:
        backbone = self.backbone()
        short = backbone.plan(pack_sequences(random_sequences(backbone, [3] * 4))[0])
        long = backbone.plan(pack_sequences(random_sequences(backbone, [12, 11, 10, 9] * 4))[0])
        assert 0 <= short.bytes < long.bytes

    def test_operations_count_the_matrices(self) -> None:
        backbone = self.backbone()
        weights = sum(w.numel() for w in backbone.blocks[0].parameters() if w.dim() == 2)
        assert backbone.block_flops(length=0) == 2 * weights
        assert backbone.block_flops(length=10) == 2 * weights + 4 * 10 * backbone.description.attention_size
        assert backbone.block_flops(length=10, needed=0.5) <= backbone.block_flops(length=10)
        assert backbone.head_flops() >= 2 * backbone.unembedding[0].numel()

    @PROPERTY
    @given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=5), st.integers(0, 1000))
    def test_trees_equal_separate_sequences(self, shapes: list[tuple[int, int]], seed: int) -> None:
        """Each node of a prefix tree has the state that it has at the end of the sequence of its ancestors."""
        backbone = self.backbone()
        pack, paths = random_trees(backbone, shapes, seed)
        if not backbone.accepts_trees:
            with pytest.raises(ValueError, match="ancestor masks"):
                backbone.plan(pack)
            return
        states = all_layers(backbone, pack)
        for row, path in enumerate(paths):
            alone = all_layers(backbone, pack_sequences([path])[0])
            for k in range(backbone.num_layers + 1):
                torch.testing.assert_close(states[k][row], alone[k][-1], atol=1e-9, rtol=1e-9)
        plan = backbone.plan(pack)
        x = random_states(backbone, 2, pack.rows)
        needed = backbone.layer(backbone.num_layers, x, plan, need=True)
        every = backbone.layer(backbone.num_layers, x, plan)
        torch.testing.assert_close(needed, every[:, pack.need], atol=1e-10, rtol=1e-10)


def random_sequences(backbone: Backbone, lengths: list[int], seed: int = 0) -> list[list[int]]:
    """Token ids without the special tokens."""
    choose = random.Random(seed)
    return [[choose.randrange(7, backbone.vocab_size) for _ in range(length)] for length in lengths]


def random_states(backbone: Backbone, branches: int, rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(branches, rows, backbone.hidden_size, dtype=backbone.dtype, generator=generator)


def random_trees(backbone: Backbone, shapes: list[tuple[int, int]], seed: int) -> tuple[Pack, list[list[int]]]:
    """A segment for each (nodes, count) in `shapes`, and for every row of the pack the tokens from its root to it.

    Segments with an odd number of nodes hold the same tree shape `count` times (one mask), others different ones.
    """
    choose = random.Random(seed)
    ids: list[int] = []
    positions: list[int] = []
    need: list[int] = []
    paths: list[list[int]] = []
    segments: list[Segment] = []
    for nodes, count in shapes:
        shared = [None, *(choose.randrange(node) for node in range(1, nodes))]
        start, need_start, masks = len(ids), len(need), []
        need_length = choose.randint(1, nodes)
        local = []
        for _ in range(count):
            parents = shared if nodes % 2 else [None, *(choose.randrange(node) for node in range(1, nodes))]
            root = len(ids)
            mask = torch.eye(nodes, dtype=torch.bool)
            for node, parent in enumerate(parents):
                token = choose.randrange(7, backbone.vocab_size)
                mask[node] |= mask[parent] if parent is not None else False
                ids.append(token)
                paths.append([*(paths[root + parent] if parent is not None else []), token])
                positions.append(len(paths[-1]) - 1)
            masks.append(mask)
            chosen = sorted(choose.sample(range(nodes), need_length))
            local.append(chosen)
            need += [root + node for node in chosen]
        ancestors = masks[0] if nodes % 2 else torch.stack(masks)
        segments.append(Segment(start, count, nodes, need_start, need_length, ancestors, torch.tensor(local)))
    return Pack(torch.tensor(ids), torch.tensor(positions), tuple(segments), torch.tensor(need)), paths


def all_layers(backbone: Backbone, pack: Pack) -> list[Tensor]:
    """The embeddings and the output of every block, L + 1 tensors [N, D]."""
    plan = backbone.plan(pack)
    states = [backbone.embed(plan)]
    for k in range(1, backbone.num_layers + 1):
        states.append(backbone.layer(k, states[-1][None], plan)[0])
    return states


def logits(backbone: Backbone, final: Tensor) -> Tensor:
    weight, bias = backbone.unembedding
    return torch.nn.functional.linear(backbone.transform(final), weight, bias)


def by_sequence(pack: Pack, rows: Tensor) -> list[Tensor]:
    """Rows [N, ...] cut into the pack's sequences."""
    lengths = [segment.length for segment in pack.segments for _ in range(segment.count)]
    return list(rows.split(lengths))


def hugging_face(backbone: Backbone, sequences: list[list[int]]) -> Any:
    """The model's own forward pass over a right-padded batch."""
    longest = max(map(len, sequences))
    padding = backbone.model.config.pad_token_id
    ids = torch.tensor([[*sequence, *[padding] * (longest - len(sequence))] for sequence in sequences])
    mask = torch.tensor([[1] * len(sequence) + [0] * (longest - len(sequence)) for sequence in sequences])
    return backbone.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)


def model_state(backbone: Backbone) -> list[Any]:
    """A digest of all weights and buffers, and what might have been left attached to a module."""
    digest = hashlib.sha256()
    for tensor in backbone.model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    attached = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m)) for m in backbone.model.modules()
    ]
    return [digest.hexdigest(), attached]
