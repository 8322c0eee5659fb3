"""Every model family against the backbone contract, on its packed and on the generic path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch

from tests.backbone.contract import BackboneContract


class TestBert(BackboneContract):
    family = "bert"


class TestXlmRoberta(BackboneContract):
    """Positions start behind the padding id; the head is named and built differently."""

    family = "xlm-roberta"


class TestBloom(BackboneContract):
    """Hugging Face computes BLOOM's softmax in float32 always."""

    family = "bloom"
    float64_tolerance = 3e-6


class TestBloomOddHeads(BackboneContract):
    """ALiBi slopes interleave when the number of heads is no power of two; the residual may come after the norm."""

    family = "bloom"
    options: ClassVar[dict[str, Any]] = {
        "n_head": 6,
        "hidden_size": 24,
        "apply_residual_connection_post_layernorm": True,
    }
    float64_tolerance = 3e-6


class TestGpt2(BackboneContract):
    family = "gpt2"


class TestGpt2ScaledByLayer(BackboneContract):
    family = "gpt2"
    options: ClassVar[dict[str, Any]] = {"scale_attn_by_inverse_layer_idx": True}


class TestXglm(BackboneContract):
    family = "xglm"

    @pytest.fixture(autouse=True)
    def _default_dtype(self) -> Iterator[None]:
        """Hugging Face's XGLM runs in float64 only where that is torch's default dtype."""
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)


class TestLlama(BackboneContract):
    """Hugging Face computes the norms of Llama and its relatives in float32 always."""

    family = "llama"
    float64_tolerance = 3e-6


class TestLlamaGroupedHeadsTiedEmbeddings(BackboneContract):
    family = "llama-grouped"
    float64_tolerance = 3e-6


class TestLlamaScaledRotary(BackboneContract):
    family = "llama"
    options: ClassVar[dict[str, Any]] = {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0},
        "head_dim": 6,
    }
    float64_tolerance = 3e-6


class TestMistralSlidingWindow(BackboneContract):
    """Rows see four keys back, fewer than most of the sequences have."""

    family = "mistral"
    float64_tolerance = 3e-6


class TestQwen2(BackboneContract):
    family = "qwen2"
    float64_tolerance = 3e-6


class TestGenericBert(BackboneContract):
    family = "bert"
    prefer = "generic"


class TestGenericXlmRoberta(BackboneContract):
    family = "xlm-roberta"
    prefer = "generic"


class TestGenericBloom(BackboneContract):
    """The model's own blocks: what they compute in float32, the generic path does too."""

    family = "bloom"
    prefer = "generic"
    float64_tolerance = 3e-6


class TestGenericGpt2(BackboneContract):
    family = "gpt2"
    prefer = "generic"


class TestGenericXglm(TestXglm):
    prefer = "generic"


class TestGenericLlama(BackboneContract):
    family = "llama-grouped"
    prefer = "generic"
    float64_tolerance = 3e-6


class TestGenericMistral(BackboneContract):
    family = "mistral"
    prefer = "generic"
    float64_tolerance = 3e-6


class TestGenericElectra(BackboneContract):
    """No family file: embeddings narrower than the states, and a head that narrows again."""

    family = "electra"
    prefer = "generic"


class TestGenericOpt(BackboneContract):
    """No family file: a projection before the first and after the last block, and a decoder inside the trunk."""

    family = "opt"
    prefer = "generic"


class TestGenericGptNeox(BackboneContract):
    """No family file: attention and feed-forward in parallel, rotary positions on part of each head."""

    family = "gpt-neox"
    prefer = "generic"
