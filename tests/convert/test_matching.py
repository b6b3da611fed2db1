"""Strict matching: every array consumed, every slot filled, or an error that says what is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.layouts import LAYOUTS, keras_layout, torch_layout
from convert.matching import NamedArrays, match, recognise, without_prefix
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import (
    FERPLUS_HEAD,
    NETWORKS,
    NO_HEAD,
    Head,
    architecture,
    classifier,
    embedding,
)
from ferplus_keras.networks.keras_vggface import KERAS_VGGFACE
from tests.seeded import seeded_arrays
from tests.small import small_networks

pytestmark = pytest.mark.usefixtures("small")

HEADS = (FERPLUS_HEAD, classifier(3), embedding(128), NO_HEAD)


def named(network: str = "resnet50", head: Head = FERPLUS_HEAD, layout: str = "torch") -> NamedArrays:
    arrays = seeded_arrays(network, head)
    slots = LAYOUTS[layout](architecture(network, head))
    found = {name: slot.from_neutral(arrays[slot.layer][slot.role]) for name, slot in slots.items()}
    return NamedArrays("a test", layout, found, dict.fromkeys(found, "float32"))


with small_networks():
    TEMPLATE = named()


def fresh() -> NamedArrays:
    """A copy of the template whose dict may be changed; the arrays are shared and must not be."""
    return NamedArrays("a test", "torch", dict(TEMPLATE.arrays), dict(TEMPLATE.dtypes))


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {KERAS_VGGFACE}))  # read as Keras's: its reader translates
@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_complete_checkpoint_matches_with_every_number_in_its_place(network: str, head: Head, layout: str) -> None:
    result = match(named(network, head, layout), "x")
    assert result.architecture == architecture(network, head)
    wanted = seeded_arrays(network, head)
    assert result.arrays.keys() == wanted.keys()
    for layer, roles in wanted.items():
        for role, array in roles.items():
            np.testing.assert_array_equal(result.arrays[layer][role], array, err_msg=f"{layer}/{role}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_slot_undoes_what_it_does(layout: str) -> None:
    for slot in LAYOUTS[layout](architecture("senet50")).values():
        array = np.arange(np.prod(slot.neutral), dtype=np.float32).reshape(slot.neutral)
        np.testing.assert_array_equal(slot.to_neutral(slot.from_neutral(array)), array)


NAMES = sorted(TEMPLATE.arrays)


@settings(max_examples=60)
@given(
    removed=st.sets(st.sampled_from(NAMES), max_size=5),
    added=st.sets(st.text("abc._0123456789", min_size=1, max_size=20), max_size=3),
    reshaped=st.sets(st.sampled_from(NAMES), max_size=3),
    poisoned=st.sets(st.sampled_from(NAMES), max_size=3),
)
def test_whatever_is_changed_is_named(
    removed: set[str], added: set[str], reshaped: set[str], poisoned: set[str]
) -> None:
    removed -= {"conv1_7x7_s2.weight", "classifier.weight"}  # the two that networks and heads are recognised by
    reshaped = reshaped - removed - {"classifier.weight"}
    poisoned = poisoned - removed - reshaped
    added = {name for name in added if name not in TEMPLATE.arrays and not name.endswith("conv1_7x7_s2.weight")}
    found = fresh()
    for name in removed:
        del found.arrays[name]
    for name in added:
        found.arrays[name] = np.zeros(3, np.float32)
    for name in reshaped:
        found.arrays[name] = np.zeros((*found.arrays[name].shape, 2), np.float32)
    for name in poisoned:
        found.arrays[name] = np.array(found.arrays[name])
        found.arrays[name].reshape(-1)[-1] = np.nan
    if not (removed or added or reshaped or poisoned):
        assert match(found, "x").notes == []
        return
    with pytest.raises(BadInputError) as error:
        match(found, "x")
    message = str(error.value)
    for count, what in (
        (len(removed), "missing"), (len(added), "unexpected"),
        (len(reshaped), "of the wrong shape"), (len(poisoned), "with impossible values"),
    ):  # fmt: skip
        assert (f"{count} {what}" in message) == bool(count), message


def test_the_table_folds_regular_names_and_counts_them() -> None:
    found = fresh()
    for name in NAMES:
        if name.endswith("_3x3_bn.running_var"):
            del found.arrays[name]
    with pytest.raises(BadInputError) as error:
        match(found, "x.pth")
    assert "10 missing" in str(error.value)
    rows = [line for line in error.value.details.splitlines() if "missing" in line]
    assert len(rows) <= 4 and "running_var (" in error.value.details


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    found = fresh()
    found.arrays["conv3_2_3x3.weight"] = np.array(found.arrays["conv3_2_3x3.weight"])
    found.arrays["conv3_2_3x3.weight"][0, 0, 0, 0] = value
    with pytest.raises(BadInputError) as error:
        match(found, "x")
    assert "conv3_2_3x3.weight" in error.value.details
    assert ("1 NaN" if np.isnan(value) else "1 infinite") in error.value.details


@pytest.mark.parametrize(("variance", "accepted"), [(0.0, True), (-0.9e-5, True), (-1e-5, False), (-1.0, False)])
def test_a_variance_may_be_negative_as_long_as_its_square_root_exists(variance: float, accepted: bool) -> None:
    found = fresh()
    name = "conv4_2_3x3_bn.running_var"
    found.arrays[name] = np.array(found.arrays[name])
    found.arrays[name][7] = variance
    if accepted:
        assert match(found, "x").arrays["conv4_2_3x3_bn"]["moving_variance"][7] == np.float32(variance)  # not clipped
    else:
        with pytest.raises(BadInputError) as error:
            match(found, "x")
        assert "epsilon is not positive" in error.value.details and name in error.value.details


def test_exceptions_hold_for_what_they_name_and_for_nothing_else() -> None:
    found = fresh()
    del found.arrays["conv2_1_3x3_bn.bias"]
    found.arrays["ema.decay"] = np.zeros(1, np.float32)
    with pytest.raises(BadInputError):
        match(found, "x", allow_missing=["conv2_1_3x3_bn.bias"])
    with pytest.raises(BadInputError):
        match(found, "x", allow_missing=["conv2_2_3x3_bn.bias"], allow_unexpected=["ema.*"])
    result = match(found, "x", allow_missing=["conv2_1_3x3_bn.bias"], allow_unexpected=["ema.*"])
    assert not result.arrays["conv2_1_3x3_bn"]["beta"].any()
    assert any("ema.decay" in note for note in result.notes) and any("conv2_1_3x3_bn.bias" in n for n in result.notes)


def test_a_missing_kernel_cannot_be_allowed() -> None:
    found = fresh()
    del found.arrays["conv2_1_3x3.weight"]
    with pytest.raises(BadInputError, match="1 missing"):
        match(found, "x", allow_missing=["*"])


def test_a_name_that_no_tensor_has_cannot_be_allowed_to_be_missing() -> None:
    with pytest.raises(
        BadInputError, match=r'No tensor of resnet50 is called "conv2_1_3x3_bn\.bia".*conv1_7x7_s2\.weight'
    ):
        match(fresh(), "x", allow_missing=["conv2_1_3x3_bn.bias", "conv2_1_3x3_bn.bia"])


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.backbone.", "_orig_mod."])
def test_a_prefix_before_every_name_is_taken_off(prefix: str) -> None:
    found = NamedArrays("a test", "torch", {prefix + name: array for name, array in TEMPLATE.arrays.items()}, {})
    result = match(found, "x")
    assert any(f"the prefix {prefix} was removed" in note for note in result.notes)


def test_step_counters_are_kept_apart() -> None:
    found = fresh()
    bns = [layer for layer, roles in architecture("resnet50").parameters.items() if "gamma" in roles]
    for layer in bns:
        found.arrays[f"{layer}.num_batches_tracked"] = np.array(7, np.int64)
    assert match(found, "x").num_batches_tracked == 7
    found.arrays[f"{bns[0]}.num_batches_tracked"] = np.array(8, np.int64)
    tracked = match(found, "x").num_batches_tracked
    assert isinstance(tracked, dict) and tracked[bns[0]] == 8 and tracked[bns[1]] == 7 and len(tracked) == len(bns)
    assert match(fresh(), "x").num_batches_tracked is None


@pytest.mark.parametrize(("value", "kept"), [(7.0, 7), (6.5, 6), (np.nan, None), (-1.0, None), (1e30, None)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_step_counters_that_are_floating_point_numbers_are_rounded(value: float, kept: int | None, dtype: str) -> None:
    found = fresh()
    bns = [layer for layer, roles in architecture("resnet50").parameters.items() if "gamma" in roles]
    for layer in bns:
        counter = np.array(value, np.float32)
        if dtype == "bfloat16":
            counter = (counter.view(np.uint32) >> 16).astype(np.uint16)
        found.arrays[f"{layer}.num_batches_tracked"] = counter
        found.dtypes[f"{layer}.num_batches_tracked"] = dtype
    result = match(found, "x")
    assert result.num_batches_tracked == kept
    assert any(f"floating-point BatchNorm step counters ({len(bns)})" in note for note in result.notes)


def test_the_counter_of_averaged_models_is_left_out() -> None:
    found = NamedArrays("a test", "torch", {f"module.{name}": array for name, array in TEMPLATE.arrays.items()}, {})
    found.arrays["n_averaged"] = np.array(5)
    assert any("n_averaged" in note for note in match(found, "x").notes)


def test_advice_is_given_only_where_it_can_help() -> None:
    found = fresh()
    del found.arrays["classifier.bias"]
    with pytest.raises(BadInputError, match="--allow-missing"):
        match(found, "x")
    found.arrays["classifier.bias"] = np.full(8, np.nan, np.float32)
    with pytest.raises(BadInputError, match="`ferplus inspect` lists"):
        match(found, "x")


def test_a_linear_head_is_the_same_head() -> None:
    found = fresh()
    found.arrays["classifier.weight"] = found.arrays["classifier.weight"].reshape(8, -1)
    result = match(found, "x")
    assert result.torch_head == "linear"
    np.testing.assert_array_equal(
        result.arrays["classifier"]["kernel"], TEMPLATE.arrays["classifier.weight"][:, :, 0, 0].T
    )


def test_types_are_stated_and_converted() -> None:
    found = fresh()
    name, wide, brain = "conv2_1_3x3.weight", "conv2_2_3x3.weight", "conv2_3_3x3.weight"
    found.arrays[name], found.dtypes[name] = found.arrays[name].astype(np.float16), "float16"
    found.arrays[wide], found.dtypes[wide] = found.arrays[wide].astype(np.float64) + 1e-12, "float64"
    bits = (found.arrays[brain].view(np.uint32) >> 16).astype(np.uint16)
    found.arrays[brain], found.dtypes[brain] = bits, "bfloat16"
    result = match(found, "x")
    assert {array.dtype for roles in result.arrays.values() for array in roles.values()} == {np.dtype(np.float32)}
    for dtype in ("float16", "float64", "bfloat16"):
        assert any(f"were {dtype}" in note for note in result.notes), result.notes
    kept = result.arrays["conv2_3_3x3"]["kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(kept.view(np.uint32) >> 16, bits)


def test_integers_and_numbers_beyond_float32_are_refused() -> None:
    found = fresh()
    found.arrays["classifier.bias"], found.dtypes["classifier.bias"] = np.arange(8), "int64"
    with pytest.raises(BadInputError) as error:
        match(found, "x")
    assert "int64" in error.value.details
    found = fresh()
    found.arrays["classifier.bias"], found.dtypes["classifier.bias"] = np.full(8, 1e300), "float64"
    with pytest.raises(BadInputError) as error:
        match(found, "x")
    assert "too large for float32" in error.value.details


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.weight"], "torchvision"),
        (["conv1/7x7_s2/kernel", "conv2_1_1x1_reduce/kernel"], "keras_vggface"),
        (["features.0.weight"], "features.0.weight"),
        ([], "no tensors"),
    ],
)
def test_another_network_is_named_as_what_it_looks_like(names: list[str], told: str) -> None:
    layout = "keras" if any("/" in name for name in names) else "torch"
    with pytest.raises(BadInputError, match=told):
        recognise(dict.fromkeys(names, (1,)), layout, "x")


def test_insisting_on_the_wrong_network_fails() -> None:
    with pytest.raises(BadInputError, match="missing"):
        match(fresh(), "x", network="senet50")
    with pytest.raises(BadInputError, match="resnet50 or senet50"):
        match(fresh(), "x", network="vgg16")


@pytest.mark.usefixtures("full_size")
def test_layouts_name_as_many_arrays_as_the_published_files_hold() -> None:
    for network, entries in (("resnet50", 320), ("senet50", 384)):  # with 53 step counters
        table = architecture(network)
        counters = sum("gamma" in roles for roles in table.parameters.values())
        assert counters == 53
        assert len(torch_layout(table)) + counters == entries
        assert len(keras_layout(table)) == len(torch_layout(table))


@pytest.mark.parametrize("head_first", [False, True])
def test_two_tensors_of_one_name_are_refused_and_neither_is_dropped(head_first: bool) -> None:
    """A wrapper with a head of its own around a whole network: without the prefix, both heads have one name."""
    found = fresh()
    wrapped = {f"backbone.{name}": array for name, array in found.arrays.items()}
    head = {name: array for name, array in found.arrays.items() if name.startswith("classifier.")}
    found.arrays = head | wrapped if head_first else wrapped | head
    found.dtypes = dict.fromkeys(found.arrays, "float32")
    with pytest.raises(BadInputError, match=r"(backbone\.)?classifier\.weight and (backbone\.)?classifier\.weight"):
        without_prefix(found)
