"""A network as files that other programs run; every file is compared with the network before it is there."""

from hedgerow.export.agreement import Agreement, agreement
from hedgerow.export.forms import FORMS, Form, Material, known_forms, write_form
from hedgerow.export.onnx_file import OPSET, write_onnx
from hedgerow.export.predictor import Predictor, predictor
from hedgerow.export.program import write_program
from hedgerow.export.quantised import write_int8

__all__ = [
    "FORMS",
    "OPSET",
    "Agreement",
    "Form",
    "Material",
    "Predictor",
    "agreement",
    "known_forms",
    "predictor",
    "write_form",
    "write_int8",
    "write_onnx",
    "write_program",
]
