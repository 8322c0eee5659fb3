"""Any Hugging Face masked or causal language model, layer by layer.

``load_backbone`` gives a `Backbone` (base.py tells its life); bert.py, bloom.py, gpt2.py, xglm.py and llama.py are the
packed paths of model families, generic.py runs everything else. streaming.py and dispatch.py are for models that do not
fit: read from disk layer by layer, or shared out over several devices.
"""

from methods.backbone.addresses import check_model, model_fingerprint
from methods.backbone.base import Backbone, Plan
from methods.backbone.loading import describe_model, load_backbone, view_model
from methods.backbone.packing import Pack, Segment, pack_sequences
from methods.backbone.structure import ModelDescription

__all__ = [
    "Backbone",
    "ModelDescription",
    "Pack",
    "Plan",
    "Segment",
    "check_model",
    "describe_model",
    "load_backbone",
    "model_fingerprint",
    "pack_sequences",
    "view_model",
]
