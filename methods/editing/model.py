"""A Hugging Face model cut in two: blocks that no edit reaches, computed once per text, and blocks that edits change.

The model runs through its own code. For the lower part its list of blocks is cut short, for the upper part it begins
at the first edited block, whose input is replaced by the stored states; so masks, position embeddings and ALiBi are
the model's own in every family. At loading both parts together are compared with the model's own forward pass.

Shape legend: B rows, T tokens, M label positions, D hidden size, V vocabulary or classes, L blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.modeling_outputs import BaseModelOutputWithPast

from methods.backbone import load_backbone
from methods.backbone.addresses import check_folder, resolve
from methods.backbone.generic import first_tensor, replaced_forward
from methods.backbone.loading import read_model
from methods.backbone.structure import find_blocks, max_length
from methods.editing.examples import Encoded, Example, Kind, encode
from methods.editing.modules import EditedModule, choose_modules
from methods.editing.store import FrozenStates, Stores
from orchestrator.errors import UserError

STORE_BYTES = 512 * 2**20
# Relative to the largest logit; anything structural is far above rounding.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


class EditableModel:
    """A frozen masked or causal language model, or a classifier, whose linear modules can be edited.

    Attributes:
        kind: how it is asked.
        hf: the model, in evaluation mode, without dropout and without gradients.
        tokenizer: the model's.
        modules: what is edited, in the order of computation.
        first_edited_block: the block (0-based) where edits begin.
        frozen_store, raw_store: states below that block, and the unmodified model's side of comparisons, by text.
    """

    def __init__(
        self,
        hf: Any,
        tokenizer: Any,
        kind: Kind,
        *,
        modules: Sequence[str] | None = None,
        edited_blocks: int = 3,
        store_bytes: int = STORE_BYTES,
        store_device: str = "cpu",
    ) -> None:
        """Wraps a model that is in memory; switches it to evaluation without dropout and without gradients.

        Args:
            hf: a Hugging Face model of the kind.
            tokenizer: its tokenizer.
            kind: masked, causal or classifier.
            modules: names of the linear modules to edit; default: the feed-forward matrices of the last blocks.
            edited_blocks: how many blocks the default takes; a model with fewer blocks gives all.
            store_bytes: memory for each of the two stores of states.
            store_device: where stored states lie.

        Raises:
            UserError: the modules cannot be edited, or the model cannot be cut in two.
        """
        self.hf, self.tokenizer, self.kind = hf.eval().requires_grad_(False), tokenizer, kind
        for part in hf.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        self.blocks = find_blocks(hf)
        self._list_owner, self._list_name = _owner(hf, self.blocks)
        self.modules: tuple[EditedModule, ...]
        self.modules, self.first_edited_block = choose_modules(hf, self.blocks, modules, edited_blocks)
        self._linear: dict[str, nn.Linear] = {module.name: hf.get_submodule(module.name) for module in self.modules}
        self.frozen_store = FrozenStates(store_bytes, store_device)
        self.raw_store = FrozenStates(store_bytes, store_device)
        self._changes = 0
        self._check()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.hf.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and states."""
        dtype: torch.dtype = self.hf.dtype
        return dtype

    @property
    def max_length(self) -> int | None:
        """Tokens that fit into one row; None where the model has no table of positions."""
        return max_length(self.hf)

    @property
    def edited(self) -> bool:
        """Whether an edit or other weights are in force right now."""
        return self._changes > 0

    @contextmanager
    def changed(self) -> Iterator[None]:
        """Says that the model inside the block is not the unmodified one; used by whatever changes it."""
        self._changes += 1
        try:
            yield
        finally:
            self._changes -= 1

    @contextmanager
    def remembering(self, stores: Stores) -> Iterator[None]:
        """Inside the block the model remembers texts in these stores, afterwards in its own again."""
        kept = self.frozen_store, self.raw_store
        self.frozen_store, self.raw_store = stores
        try:
            yield
        finally:
            self.frozen_store, self.raw_store = kept

    def linear(self, name: str) -> nn.Linear:
        """The edited module of that name."""
        return self._linear[name]

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """A batch of examples on the model's device."""
        return encode(examples, self.tokenizer, self.kind, max_length=self.max_length).to(self.device)

    @torch.no_grad()
    def frozen(self, batch: Encoded) -> Tensor:
        """States that enter the first edited block, [B, T, D]; zero where a row is padded.

        Every distinct text is computed once, and not again as long as the store keeps it.
        """
        found = {key: self.frozen_store.get(key) for key in dict.fromkeys(batch.keys)}
        missing = [key for key, entry in found.items() if entry is None]
        states = torch.zeros(*batch.input_ids.shape, self.hf.config.hidden_size, dtype=self.dtype, device=self.device)
        rows_of: dict[bytes, list[int]] = {}
        for row, key in enumerate(batch.keys):
            rows_of.setdefault(key, []).append(row)
        if missing:
            part = batch.select([rows_of[key][0] for key in missing])
            lower = self._lower(part)
            lengths = part.attention_mask.sum(1).tolist()
            for key, rows, length in zip(missing, lower, lengths, strict=True):
                found[key] = (rows[:length],)
                self.frozen_store.put(key, (rows[:length],))
        for key, entry in found.items():
            assert entry is not None
            states[rows_of[key], : len(entry[0])] = entry[0].to(self.device)
        return states

    def upper(self, batch: Encoded, states: Tensor) -> Tensor:
        """What the model makes of `states`: final states [B, T, D], after the norm behind the last block where there
        is one, or class logits [B, V] of a classifier. Differentiable; honours applied edits.
        """

        def enter(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

        blocks = self.blocks[self.first_edited_block :]
        with ExitStack() as stack:
            stack.enter_context(self._cut(blocks))
            stack.callback(blocks[0].register_forward_pre_hook(enter, with_kwargs=True, prepend=True).remove)
            if self.kind == "classifier":
                logits: Tensor = self.hf(**self._inputs(batch)).logits
                return logits
            return first_tensor(self.hf.base_model(**self._inputs(batch)))

    def logits(self, batch: Encoded, states: Tensor | None = None) -> Tensor:
        """Logits at the label positions alone, [M, V].

        Args:
            batch: the texts.
            states: from `frozen`, where the caller has them already.
        """
        output = self.upper(batch, self.frozen(batch) if states is None else states)
        if self.kind == "classifier":
            return output[batch.rows]
        return self.head(output[batch.rows, batch.columns])

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [*, V] of final states [*, D]; a classifier's output is logits already."""
        if self.kind == "classifier":
            return hidden
        with self._as_trunk_output(hidden):
            logits: Tensor = self.hf(**self._one_token()).logits
        return logits.view(*hidden.shape[:-1], -1)

    def transform(self, hidden: Tensor) -> Tensor:
        """What the head does before the vocabulary matrix, [*, D] to [*, D]; nothing for a classifier."""
        if self.kind == "classifier":
            return hidden
        caught: list[Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...]) -> None:
            caught.append(args[0])
            raise _Reached

        handle = self.hf.get_output_embeddings().register_forward_pre_hook(stop)
        try:
            with self._as_trunk_output(hidden):
                self.hf(**self._one_token())
        except _Reached:
            pass
        finally:
            handle.remove()
        return caught[0].view(hidden.shape)

    @property
    def unembedding(self) -> tuple[Tensor, Tensor | None]:
        """Matrix [V, D] and bias [V] that make logits of transformed states; a classifier's are the identity."""
        if self.kind == "classifier":
            return torch.eye(self.hf.config.num_labels, dtype=self.dtype, device=self.device), None
        output = self.hf.get_output_embeddings()
        return output.weight, getattr(output, "bias", None)

    def _lower(self, batch: Encoded) -> Tensor:
        """Runs embeddings and lower blocks, [B, T, D]."""
        catcher = _Catcher()
        try:
            with self._cut(nn.ModuleList([*self.blocks[: self.first_edited_block], catcher])):
                self.hf.base_model(**self._inputs(batch))
        except _Reached:
            pass
        (states,) = catcher.caught
        return states

    def _inputs(self, batch: Encoded) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.token_type_ids is not None and (getattr(self.hf.config, "type_vocab_size", None) or 0) > 1:
            inputs["token_type_ids"] = batch.token_type_ids
        if self.kind == "causal":
            inputs["use_cache"] = False
        return inputs

    def _one_token(self) -> dict[str, Any]:
        """Input for a model whose trunk does not look at it."""
        extra = {"use_cache": False} if self.kind == "causal" else {}
        return {"input_ids": torch.zeros(1, 1, dtype=torch.long, device=self.device), **extra}

    @contextmanager
    def _as_trunk_output(self, hidden: Tensor) -> Iterator[None]:
        """Lets the trunk hand over `hidden` as one row of states."""
        output = BaseModelOutputWithPast(last_hidden_state=hidden.reshape(1, -1, hidden.shape[-1]))
        with replaced_forward(self.hf.base_model, lambda *_, **__: output):
            yield

    @contextmanager
    def _cut(self, blocks: nn.ModuleList) -> Iterator[None]:
        """Gives the model another list of blocks, and its own one back at the end."""
        setattr(self._list_owner, self._list_name, blocks)
        try:
            yield
        finally:
            setattr(self._list_owner, self._list_name, self.blocks)

    @torch.no_grad()
    def _check(self) -> None:
        """Compares both parts together with the model's own forward pass on two texts of different lengths."""
        ids, attended = _two_texts(self.hf)
        nowhere = torch.zeros(0, dtype=torch.long, device=self.device)
        rows, columns = attended.nonzero(as_tuple=True)
        if self.kind == "classifier":
            rows, columns = torch.arange(2, device=self.device), torch.zeros(2, dtype=torch.long, device=self.device)
        batch = Encoded(ids, attended, None, rows, columns, nowhere, (b"long", b"short"))
        theirs = self.hf(**self._inputs(batch)).logits
        theirs = theirs if self.kind == "classifier" else theirs[rows, columns]
        states = self._lower(batch)
        output = self.upper(batch, states)
        weight, bias = self.unembedding
        chosen = output if self.kind == "classifier" else output[rows, columns]
        for ours in (self.head(chosen), nn.functional.linear(self.transform(chosen), weight, bias)):
            difference = (ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6)
            if not float(difference) <= _TOLERANCE[self.dtype]:
                raise UserError(
                    f"{type(self.hf).__name__} cannot be edited: run in two parts (up to block "
                    f"{self.first_edited_block}, and from there on) it does not give its own scores, so every result "
                    "would be wrong. Use a model whose blocks form a plain chain and whose last layer is linear, such "
                    "as BERT, XLM-R, BLOOM, XGLM or Llama."
                )


def load_editable(
    address: str,
    kind: Kind,
    *,
    modules: Sequence[str] | None = None,
    edited_blocks: int = 3,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    store_bytes: int = STORE_BYTES,
) -> EditableModel:
    """Loads a model for editing.

    Args:
        address: built-in name, local folder or hub id; for a classifier, of one that is trained already.
        kind: masked, causal or classifier.
        modules, edited_blocks, store_bytes: see `EditableModel`.
        dtype: of weights and states.
        device: torch device string.

    Raises:
        UserError: the model is not there, incomplete, of another kind, or cannot be edited.
    """
    if kind == "classifier":
        hf, tokenizer = _load_classifier(address, dtype, device)
    else:
        backbone = load_backbone(address, dtype=dtype, device=device)
        hf, tokenizer = backbone.model, backbone.tokenizer
        if backbone.kind != kind:
            raise UserError(
                f"Model {address!r} is a {backbone.kind} language model and the task asks a {kind} one, so its answers "
                f"cannot be read. Choose a {kind} model or a task for {backbone.kind} ones."
            )
    return EditableModel(hf, tokenizer, kind, modules=modules, edited_blocks=edited_blocks, store_bytes=store_bytes)


class _Reached(Exception):
    """Raised to leave a forward pass where nothing behind is wanted."""


class _Catcher(nn.Module):
    """Stands in a list of blocks for the first edited one, notes what enters it and ends the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.caught: list[Tensor] = []

    def forward(self, *args: Any, **kwargs: Any) -> None:
        self.caught.append(args[0] if args else kwargs["hidden_states"])
        raise _Reached


def _owner(hf: nn.Module, blocks: nn.ModuleList) -> tuple[nn.Module, str]:
    """The module that holds the list of blocks, and its name there."""
    for part in hf.modules():
        for name, child in part.named_children():
            if child is blocks:
                return part, name
    raise AssertionError("find_blocks gave a list that no module holds")


def _two_texts(hf: Any) -> tuple[Tensor, Tensor]:
    """Random token ids [2, 7] without the padding id, and their attention mask: 7 and 3 tokens."""
    padding = getattr(hf.config, "pad_token_id", None)
    rows = hf.get_input_embeddings().weight.shape[0]
    allowed = torch.tensor([token for token in range(min(rows, 1000)) if token != padding])
    ids = allowed[torch.randint(len(allowed), (2, 7), generator=torch.Generator().manual_seed(0))]
    attended = torch.ones_like(ids)
    ids[1, 3:], attended[1, 3:] = padding or 0, 0
    return ids.to(hf.device), attended.to(hf.device)


def _load_classifier(address: str, dtype: torch.dtype, device: str) -> tuple[object, object]:
    folder = resolve(address)
    check_folder(folder, address)
    needed = "every class meaningless. Pass a classifier that is trained."
    hf, tokenizer = read_model(AutoModelForSequenceClassification, folder, address, needed, dtype=dtype)
    return hf.to(device), tokenizer
