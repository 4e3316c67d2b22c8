"""Every form computes the masked network, for any batch of [0,1] images, or says how far it is from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hedgerow.compact import read_sparse
from hedgerow.export import FORMS, Agreement, Material, known_forms, predictor
from hedgerow.sparsity import prunable_weights

Written = dict[str, tuple[Path, Agreement]]
EXACT = ["sparse", "shrunk", "onnx", "shrunk-onnx", "torch-export"]
ROUNDED = {"sparse-float16": 1e-3, "sparse-int8": 0.05, "onnx-int8": 0.3}


def expected(made: Material, images: torch.Tensor) -> torch.Tensor:
    """Return the logits in double precision, by the masked network itself."""
    made.model.eval().double()
    try:
        with torch.no_grad():
            return made.model(images.double()).float()  # type: ignore[no-any-return]
    finally:
        made.model.float()


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_form_is_the_network_for_every_batch_size(name: str, made: Material, written: Written) -> None:
    path, agreed = written[name]
    answer = predictor(path)
    for count in (1, 2, 5, 67):
        found = answer(made.images[:count])
        torch.testing.assert_close(found, expected(made, made.images[:count]), rtol=1e-4, atol=1e-5)
    assert agreed.images == agreed.same_class == len(made.images)
    assert agreed.relative < 1e-5


@pytest.mark.parametrize("name", ROUNDED)
def test_a_rounded_form_states_how_far_it_is(name: str, made: Material, written: Written) -> None:
    path, agreed = written[name]
    found, truth = predictor(path)(made.images), expected(made, made.images)
    largest = float((found - truth).abs().max())
    assert agreed.largest == pytest.approx(largest, rel=1e-2)
    assert agreed.relative == pytest.approx(largest / float(truth.abs().max()), rel=1e-2)
    assert 0 < agreed.relative < ROUNDED[name]
    assert agreed.same_class == int((found.argmax(1) == truth.argmax(1)).sum())


def test_every_form_is_known_and_was_tried(written: Written) -> None:
    assert set(written) == set(FORMS) == set(known_forms())
    for name, (path, _) in written.items():
        assert path.name == f"{name}{FORMS[name].suffix}"


def test_an_onnx_file_is_one_file_of_opset_20_without_lost_zeros(made: Material, written: Written) -> None:
    onnx = pytest.importorskip("onnx")
    path, _ = written["onnx"]
    proto = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 20)]
    (taken,), (given,) = proto.graph.input, proto.graph.output
    assert (taken.name, given.name) == ("images", "logits")
    sizes = [d.dim_param or d.dim_value for d in taken.type.tensor_type.shape.dim]
    assert sizes == ["batch", 1, 8, 8]
    found = sorted(
        int((onnx.numpy_helper.to_array(t) != 0).sum()) for t in proto.graph.initializer if len(t.dims) > 1
    )
    kept = sorted(int(torch.count_nonzero(w.value)) for w in weights(made).values())
    assert [count for count in found if count > 1] == kept


class _Weight:
    def __init__(self, value: torch.Tensor) -> None:
        self.value = value


def weights(made: Material) -> dict[str, _Weight]:
    names = prunable_weights(made.model)
    return {name: _Weight(made.model.get_submodule(name.rpartition(".")[0]).weight) for name in names}  # type: ignore[arg-type]


def test_an_int8_file_holds_8_bit_weights(written: Written) -> None:
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(written["onnx-int8"][0])
    kinds = {node.op_type for node in proto.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    large = [t for t in proto.graph.initializer if len(t.dims) > 1 and onnx.numpy_helper.to_array(t).size > 50]
    assert large
    assert {t.data_type for t in large} == {onnx.TensorProto.INT8}


def test_the_shrunk_forms_are_smaller(made: Material, written: Written) -> None:
    assert made.shrunk.removal.channels >= 3
    assert written["shrunk-onnx"][0].stat().st_size < written["onnx"][0].stat().st_size
    assert read_sparse(written["shrunk"][0]).sparse["third.weight"].shape == (5, 12, 3, 3)
    assert read_sparse(written["sparse"][0]).about == {"recipe": {"name": "x"}}


def test_the_model_is_left_as_it_was(made: Material, written: Written) -> None:
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    assert any("original" in name for name in before)  # the masks are attached
    assert written
    assert all(p.requires_grad for p in made.model.parameters())


def test_the_sparse_runtime_agrees(made: Material, written: Written) -> None:
    pytest.importorskip("numba")
    found = predictor(written["shrunk"][0], engine="sparse")(made.images[:20])
    torch.testing.assert_close(found, expected(made, made.images[:20]), rtol=1e-4, atol=1e-4)
