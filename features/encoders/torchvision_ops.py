"""Makes torchvision importable beside a PyTorch its compiled operators were not built for."""

from __future__ import annotations

from importlib import import_module

import torch

_MISSING = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision() -> None:
    """Imports torchvision; to be called before every import of open_clip or timm.

    The compiled operators in PyPI's torchvision wheel do not load into a CPU-only PyTorch. torchvision itself
    forgives that, except that it registers shape functions for two box operators by name. Neither is used here, so
    declaring their signatures is enough. Where the operators do load, nothing is declared.
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name, schema in _MISSING.items():
            torch.library.define(name, schema)
        import_module("torchvision")
