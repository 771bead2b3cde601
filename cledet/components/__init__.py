"""The paper's three components as pure functions on tensors."""

from cledet.components.cl_nms import cl_balanced_nms
from cledet.components.dc import dynamic_coefficient, normalize_coefficient
from cledet.components.iac import assign_iac, iac_score

__all__ = ["assign_iac", "cl_balanced_nms", "dynamic_coefficient", "iac_score", "normalize_coefficient"]
