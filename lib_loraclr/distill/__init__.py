"""Distillation: a merged LoRA learns, through the whole model, what each single LoRA makes the model predict.

Solving layer by layer leaves what no linear update of one layer can do: two concepts whose inputs are alike there.
Layers before and behind can make up for it, but only together, which takes gradients through the model (knowledge
distillation, Hinton et al. 2015, with the single LoRAs as teachers and no pictures but their own).
"""

from __future__ import annotations

from lib_loraclr.distill.data import DistillationDataset, DistillSettings, build_dataset
from lib_loraclr.distill.evaluate import HeldOutEvaluation
from lib_loraclr.distill.train import Distilled, distill

__all__ = ["DistillSettings", "DistillationDataset", "Distilled", "HeldOutEvaluation", "build_dataset", "distill"]
