"""What patching is measured on: a model with requests in several languages, texts, and memories.

Nothing is downloaded: of a published shape weights and tokens are drawn; a model folder is taken with its own weights
and tokenizer, and its texts are tokens drawn from its vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from methods.backbone.addresses import CONFIG, check_folder, read_json, resolve
from methods.backbone.structure import kind_of
from methods.editing.benchmark.cases import LANGUAGES, SHAPES, NumberTokenizer, random_model
from methods.editing.examples import Example, Kind
from methods.editing.model import EditableModel, load_editable
from methods.editing.patches.cache import AnswerCache
from methods.editing.patches.config import PatchConfig, StreamConfig
from methods.editing.patches.mpn import StreamEdit
from methods.editing.patches.site import PatchSite
from orchestrator.errors import Problems, UserError, did_you_mean

# Tokens of a claim, drawn uniformly.
_CLAIM_TOKENS = (8, 22)
# Spread of drawn memories around computed ones, in standard deviations of a coordinate.
_SPREAD = 0.3


@dataclass(frozen=True)
class PatchingSettings:
    """What is measured.

    Attributes:
        shape: of `SHAPES`, or the folder of a classifier, masked or causal language model.
        edits: requests of the stream on cached inputs.
        plain_edits: requests of the plain loop, the first of these; the loop with repeated texts gets one.
        steps: optimizer steps of an edit, for all alike; the stopping rule is evaluated, but ends nothing.
        memory: states to train against; a quarter as many to stop by.
        texts: of a point of the accuracy curve.
        repeats: runs of every contender; None: two, or one where two would take minutes.
        threads: of torch; None leaves torch's choice.
        device: torch device string.
    """

    shape: str = "mbert"
    edits: int = 8
    plain_edits: int = 1
    steps: int = 125
    memory: int = 40_000
    texts: int = 256
    repeats: int | None = None
    threads: int | None = None
    device: str = "cpu"

    def check(self) -> None:
        """Raises UserError with everything that makes no sense."""
        problems = Problems()
        if self.shape not in SHAPES and not Path(self.shape).expanduser().is_dir():
            problems.add(f"--shape {self.shape!r} is neither known nor a folder.{did_you_mean(self.shape, SHAPES)}")
        for option in ("edits", "plain_edits", "steps", "memory", "texts", "repeats", "threads"):
            value, least = getattr(self, option), 2 if option == "texts" else 1
            if value is not None and value < least:
                problems.add(f"--{option.replace('_', '-')} is {value}, but at least {least} is needed")
        if self.plain_edits > self.edits:
            problems.add(f"--plain-edits {self.plain_edits} is more than --edits {self.edits}; choose at most as many")
        if self.device == "cuda" and not torch.cuda.is_available():
            problems.add("--device cuda is not possible: torch sees no CUDA device here; use --device cpu")
        problems.raise_if_any()

    def stream(self, steps: int) -> StreamConfig:
        """Multilingual patch neurons: every edit trains on its text and on the same in one other language."""
        patches = PatchConfig(max_steps=steps, patience=steps)
        return StreamConfig(languages=LANGUAGES, trigger="all", evaluate_every=self.edits + 1, patches=patches)


@dataclass(frozen=True)
class PatchingCase:
    """A model with its requests.

    Attributes:
        site: where patches sit.
        edits: requests in several languages, answered wrongly by the model.
        texts: that no edit is about.
        memories: states to train against and to stop by, [K, D] each.
    """

    site: PatchSite
    edits: list[StreamEdit]
    texts: list[Example]
    memories: tuple[Tensor, Tensor]


def make_patching_case(settings: PatchingSettings, seed: int = 0) -> PatchingCase:
    """A model of a shape or from a folder, and requests, texts and memories for it.

    Raises:
        UserError: the folder holds no model that patches can be made for.
    """
    model = _model(settings, seed)
    site, draw = PatchSite(model), random.Random(seed)
    special = set(model.tokenizer.all_special_ids)
    words = [token for token in range(model.hf.get_input_embeddings().weight.shape[0]) if token not in special]

    def text(language: str, answer: Sequence[int]) -> Example:
        written = model.tokenizer.decode(draw.choices(words, k=draw.randint(*_CLAIM_TOKENS))).strip()
        masks = [model.tokenizer.mask_token] * len(answer) if model.kind == "masked" else []
        return Example(" ".join([written, *masks]), language, None, tuple(answer))

    def answer() -> list[int]:
        return [draw.choice(words)] if model.kind != "classifier" else [draw.randrange(site.outputs)]

    def request(index: int) -> StreamEdit:
        wanted = answer()
        return StreamEdit(str(index), {language: text(language, wanted) for language in LANGUAGES})

    cache = AnswerCache(site)
    edits = [request(index) for index in range(settings.edits)]
    if model.kind == "classifier":
        raw = cache.predicted(cache.states([edit.texts["en"] for edit in edits])).tolist()
        edits = [_mistaken(edit, said, site.outputs) for edit, said in zip(edits, raw, strict=True)]
    texts = [text("en", answer()) for _ in range(settings.texts)]
    computed = cache.states(texts).queries
    generator = torch.Generator(computed.device).manual_seed(seed)

    def around(number: int) -> Tensor:
        chosen = torch.randint(len(computed), (number,), generator=generator, device=computed.device)
        noise = torch.randn(number, computed.shape[1], generator=generator, device=computed.device)
        return computed[chosen] + _SPREAD * computed.std(0) * noise

    return PatchingCase(site, edits, texts, (around(settings.memory), around(max(1, settings.memory // 4))))


def _model(settings: PatchingSettings, seed: int) -> EditableModel:
    if settings.shape in SHAPES:
        hf = random_model(settings.shape, "classifier", settings.device, seed)
        return EditableModel(hf, NumberTokenizer(), "classifier", edited_blocks=1)
    folder = resolve(settings.shape)
    check_folder(folder, settings.shape)
    names = read_json(folder / CONFIG).get("architectures") or []
    kinds: set[Kind | None] = {_kind(name) for name in names}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        raise UserError(
            f"Model {settings.shape!r} names its architecture as {', '.join(names) or 'nothing'}, which is no "
            "classifier, masked or causal language model, so there is nothing to patch. Give the folder of one."
        )
    return load_editable(settings.shape, kind, edited_blocks=1, device=settings.device)


def _kind(architecture: str) -> Kind | None:
    classifies = architecture.endswith("ForSequenceClassification")
    return "classifier" if classifies else kind_of(architecture)


def _mistaken(edit: StreamEdit, said: int, classes: int) -> StreamEdit:
    """The request with an answer that the model does not give."""
    (drawn,) = edit.texts["en"].answer
    answer = ((said + 1 + drawn % (classes - 1)) % classes,)
    return replace(edit, texts={language: replace(text, answer=answer) for language, text in edit.texts.items()})
