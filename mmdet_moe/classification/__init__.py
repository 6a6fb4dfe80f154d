"""Classifiers of MMPretrain with experts, and data whose classes have
superclasses; importing it registers them.

    custom_imports = dict(
        imports=['mmdet_moe.classification'], allow_failed_imports=False)

Raises:
    ImportError: MMPretrain is not installed; says how to install it.
"""
from mmdet_moe.requirements import import_quietly, need_mmpretrain

need_mmpretrain()
import_quietly('mmpretrain.datasets')

from .classifier import build_moe_classifier  # noqa: E402
from .datasets import SuperclassCIFAR100, SuperclassFolder  # noqa: E402

__all__ = ['SuperclassCIFAR100', 'SuperclassFolder', 'build_moe_classifier']
