"""Hostile and damaged pickles: refused or inert, and nothing in them runs."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch

from kfexplore.checkpoints import pickles
from kfexplore.checkpoints.pickles import PickleError, Placeholder, TensorRef, UnsafeName, read_pickle
from kfexplore.checkpoints.reading import read_tensors
from kfexplore.errors import KfError

from .hostile_weights import RAN, Attack, text
from .synthetic import weights

MARK = b"("


def by_global(full: str) -> bytes:
    module, name = full.rsplit(".", 1)
    return f"c{module}\n{name}\n".encode()


def by_stack(full: str) -> bytes:
    module, name = full.rsplit(".", 1)
    return text(module) + text(name) + b"\x93"


CALLS: dict[str, Callable[[str, bytes], bytes]] = {
    "reduce": lambda full, argument: by_global(full) + argument + b"\x85R",
    "reduce of a name on the stack": lambda full, argument: by_stack(full) + argument + b"\x85R",
    "inst": lambda full, argument: MARK + argument + b"i" + by_global(full)[1:],
    "obj": lambda full, argument: MARK + by_global(full) + argument + b"o",
    "newobj": lambda full, argument: by_global(full) + argument + b"\x85\x81",
    "newobj_ex": lambda full, argument: by_global(full) + argument + b"\x85}\x92",
    "never called": lambda full, argument: argument + by_global(full) + b"\x86",
}
DANGEROUS = [
    "os.system",
    "posix.system",
    "nt.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "builtins.getattr",
    "builtins.__import__",
    "builtins.open",
    "__builtin__.eval",
    "importlib.import_module",
    "runpy.run_path",
    "sys.modules",
    "socket.socket",
    "shutil.rmtree",
    "ctypes.CDLL",
    "pickle.loads",
    "operator.attrgetter",
    "types.FunctionType",
    "copyreg.add_extension",
    "torch.load",
    "torch.hub.load",
    "torch.storage._load_from_bytes",
    "torch.serialization.os.system",
    "some.module.eval",
    "numpy.testing._private.utils.runstring",
    "collections.OrderedDict.__init__.__globals__",
]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / RAN


def touch(marker: Path) -> bytes:
    """The argument of a call that would leave the marker, in whatever shell or interpreter."""
    return text(f"touch '{marker}'")


PAIRS = [
    *((full, "reduce") for full in DANGEROUS),
    *(("os.system", how) for how in CALLS if how != "reduce"),
    ("builtins.getattr", "obj"),
    ("torch.storage._load_from_bytes", "reduce of a name on the stack"),
    ("collections.OrderedDict.__init__.__globals__", "newobj_ex"),
]


@pytest.mark.parametrize(("full", "how"), PAIRS)
def test_a_dangerous_name_is_refused_by_name(full: str, how: str, marker: Path) -> None:
    pickled = b"\x80\x04" + CALLS[how](full, touch(marker)) + b"."
    with pytest.raises(UnsafeName) as caught:
        read_pickle(io.BytesIO(pickled))
    assert str(caught.value) == full
    assert not marker.exists()


def got(owner: bytes, attribute: str) -> bytes:
    """A call of getattr."""
    return by_global("builtins.getattr") + owner + text(attribute) + b"\x86R"


@pytest.mark.parametrize(
    "call",
    [
        got(by_global("collections.OrderedDict"), "__init__"),
        got(by_global("made.up.Kind"), "_private"),
        got(by_global("made.up.Kind"), "a.b"),
        got(by_global("made.up.os"), "path"),
        got(by_global("made.up"), "system"),
        got(by_global("builtins.getattr"), "x"),
        got(text("a string"), "upper"),
        got(by_global("made.up.Thing") + b")R", "method"),
        got(got(by_global("made.up.Kind"), "a"), "b"),
        by_global("builtins.getattr") + by_global("made.up.Kind") + text("a") + b"N\x87R",
        by_global("builtins.getattr") + by_global("made.up.Kind") + b"N\x86R",
    ],
)
def test_getattr_is_refused_but_for_a_plain_attribute_of_a_class(call: bytes) -> None:
    with pytest.raises(UnsafeName, match=r"getattr|made\.up\.os"):
        read_pickle(io.BytesIO(call + b"."))


@pytest.mark.parametrize("attribute", ["MEMBER", "__new__"])
def test_an_attribute_of_a_class_is_a_placeholder(attribute: str) -> None:
    value = read_pickle(io.BytesIO(got(by_global("made.up.Kind"), attribute) + b"."))
    assert isinstance(value, Placeholder)


@pytest.mark.parametrize("how", ["reduce", "reduce of a name on the stack", "inst", "obj"])
def test_such_a_pickle_does_run_in_pythons_unpickler(how: str, marker: Path) -> None:
    """What the test above refuses is an attack, not a pickle that nobody could load."""
    pickle.loads(b"\x80\x04" + CALLS[how]("os.system", touch(marker)) + b".")
    assert marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_an_attack_beside_sound_weights_is_refused_in_both_formats(tmp_path: Path, marker: Path, zipped: bool) -> None:
    path = tmp_path / "model.ckpt"
    saved = {"state_dict": weights(), "callbacks": Attack(tmp_path)}
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(KfError, match=r"names (os|posix|nt)\.system") as caught:
        read_tensors(path)
    assert "nothing in this file was executed" in str(caught.value)
    assert not marker.exists()


CLASSES = [
    "omegaconf.dictconfig.DictConfig",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "__main__.Config",
    "typing.Any",
    "builtins.int",
    "builtins.set",
    "torch.optim.adamw.AdamW",
    "models.eval.Settings",
    "copyreg._reconstructor",
    "numpy._core.multiarray.scalar",
    "functools.partial",
]


@pytest.mark.parametrize(
    ("full", "how"),
    [
        *((full, "reduce") for full in CLASSES),
        *((CLASSES[0], how) for how in CALLS if how not in ("reduce", "never called")),
    ],
)
def test_another_class_becomes_a_placeholder(full: str, how: str) -> None:
    value = read_pickle(io.BytesIO(b"\x80\x04" + CALLS[how](full, text("x")) + b"."))
    assert isinstance(value, Placeholder)
    assert value.origin == full


def test_state_items_and_calls_of_a_placeholder_do_nothing(marker: Path) -> None:
    made = by_global("made.up.Thing") + b")R"
    state = b"}" + text("__setstate__") + text("x") + b"s"
    pickled = made + state + b"b" + text("k") + text("v") + b"s" + text("item") + b"a" + touch(marker) + b"\x85R."
    value = read_pickle(io.BytesIO(pickled))
    assert isinstance(value, Placeholder)
    assert not marker.exists()


def test_state_cannot_change_a_class_or_a_function_of_ours() -> None:
    for target in ("torch._utils._rebuild_tensor_v2", "collections.OrderedDict"):
        pickled = by_global(target) + b"N}" + text("__defaults__") + b")s\x86b."
        with pytest.raises(PickleError, match="gives state"):
            read_pickle(io.BytesIO(pickled))


@pytest.mark.parametrize(
    "opcode", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"Pstorage\n", b"\x97", b"]\x98"]
)
def test_opcodes_that_no_checkpoint_needs_are_refused(opcode: bytes) -> None:
    """EXT1, EXT2, EXT4 (the extension registry), text persistent ids, out-of-band buffers."""
    with pytest.raises(PickleError, match="which no checkpoint needs"):
        read_pickle(io.BytesIO(b"\x80\x05" + opcode + b"."))


@pytest.mark.parametrize(
    "pid",
    [
        text("storage"),
        text("module") + b"\x85",
        MARK + text("module") + by_global("torch.FloatStorage") + text("0") + text("cpu") + b"K\x01t",
        MARK + text("storage") + by_global("made.up.Storage") + text("0") + text("cpu") + b"K\x01t",
        MARK + text("storage") + text("torch.FloatStorage") + text("0") + text("cpu") + b"K\x01t",
        MARK + text("storage") + by_global("torch.FloatStorage") + b"K\x00" + text("cpu") + b"K\x01t",
        MARK + text("storage") + by_global("torch.FloatStorage") + text("0") + b"NK\x01t",
        MARK + text("storage") + by_global("torch.FloatStorage") + text("0") + text("cpu") + b"\x88t",
        MARK + text("storage") + by_global("torch.FloatStorage") + text("0") + text("cpu") + b"J\xff\xff\xff\xfft",
        MARK + text("storage") + by_global("torch.FloatStorage") + text("0") + text("cpu") + b"K\x01)t",
    ],
)
def test_a_persistent_id_must_be_a_storage(pid: bytes) -> None:
    with pytest.raises(PickleError, match=r"persistent id|storage of unknown form"):
        read_pickle(io.BytesIO(b"\x80\x02" + pid + b"Q."))


def storage(key: bytes, numel: bytes) -> bytes:
    return MARK + text("storage") + by_global("torch.FloatStorage") + key + text("cpu") + numel + b"tQ"


def test_a_persistent_id_cannot_nest_another() -> None:
    sound = storage(text("0"), b"K\x01")
    read_pickle(io.BytesIO(sound + b"."))
    with pytest.raises(PickleError, match="unknown form"):
        read_pickle(io.BytesIO(storage(sound, b"K\x01") + b"."))


def test_one_storage_cannot_be_declared_twice_differently() -> None:
    with pytest.raises(PickleError, match="twice"):
        read_pickle(io.BytesIO(storage(text("0"), b"K\x01") + storage(text("0"), b"K\x02") + b"."))


def test_a_huge_memo_index_or_length_takes_no_memory() -> None:
    assert read_pickle(io.BytesIO(b"Nr\xff\xff\xff\xff.")) is None
    for opcode in (b"B\xff\xff\xff\xff", b"X\xff\xff\xff\xff", b"\x8e" + b"\xff" * 7 + b"\x0f"):
        with pytest.raises(PickleError, match="damaged"):
            read_pickle(io.BytesIO(b"\x80\x05" + opcode + b"x."))


def test_deep_nesting_neither_recurses_nor_is_hashed() -> None:
    """A tuple of tuples as a key overflows the C stack when it is hashed; as a value it is data."""
    deep = b")" + b"\x85" * 100_000
    assert read_pickle(io.BytesIO(b"}" + deep + b"N" + b"s" + text("k") + deep[:1000] + b"s.")) == {"k": ANY}


def test_only_names_are_keys() -> None:
    assert read_pickle(io.BytesIO(b"}(K\x01K\x02" + text("k") + b"K\x03u.")) == {"k": 3}
    pairs = b"((K\x01K\x02l(" + text("k") + b"K\x03ll\x85R."
    assert read_pickle(io.BytesIO(by_global("collections.OrderedDict") + pairs)) == {"k": 3}


def test_the_number_of_operations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPERATIONS", 1000)
    read_pickle(io.BytesIO(b"]" + b"Na" * 400 + b"."))
    with pytest.raises(PickleError, match="operations"):
        read_pickle(io.BytesIO(b"]" + b"Na" * 600 + b"."))
    # Pairs handed to OrderedDict count too, or one list could be copied a million times.
    pairs = b"(" + b"".join(text("a") + b"N\x86" for _ in range(100)) + b"lq\x00"
    with pytest.raises(PickleError, match="operations"):
        read_pickle(io.BytesIO(pairs + (by_global("collections.OrderedDict") + b"h\x00\x85R0") * 20 + b"."))


@pytest.mark.parametrize(
    "broken", [b"", b"\x80\x02", b"}", b"R.", b"NR.", b"\x86.", b"t.", b"h\x05.", b"NNa.", b"NNNs.", b"\xff."]
)
def test_a_broken_pickle_says_so(broken: bytes) -> None:
    with pytest.raises(PickleError):
        read_pickle(io.BytesIO(broken))


def test_calling_what_is_no_name_is_refused() -> None:
    with pytest.raises(PickleError, match="calls something"):
        read_pickle(io.BytesIO(text("os.system") + text("x") + b"\x85R."))


def test_every_protocol_of_plain_data_is_understood() -> None:
    plain = {"a": [1, -(2**70), 2.5, None, True, False], "b": ("x", b"y" * 300, "é" * 300), "c": {"d": []}}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        read = read_pickle(io.BytesIO(pickle.dumps(plain, protocol)))
        if protocol >= 3:  # earlier ones have no bytes of their own
            assert read == plain
        else:
            assert read["a"] == plain["a"]


def test_sets_and_shared_values_pass() -> None:
    shared = ["s"]
    for protocol in range(6):
        value = read_pickle(io.BytesIO(pickle.dumps({"x": shared, "y": shared, "z": {1, 2}}, protocol)))
        assert value["x"] is value["y"]
        assert isinstance(value["z"], Placeholder)
    frozen = read_pickle(io.BytesIO(pickle.dumps(frozenset([1]), 4)))
    assert isinstance(frozen, Placeholder)


def test_a_view_with_a_conjugate_or_negative_bit_is_no_weight() -> None:
    arguments = storage(text("0"), b"K\x02") + b"K\x00K\x02\x85K\x01\x85\x89}"
    call = by_global("torch._utils._rebuild_tensor_v2") + MARK + arguments
    assert isinstance(read_pickle(io.BytesIO(call + b"}tR.")), TensorRef)
    flagged = read_pickle(io.BytesIO(call + b"}" + text("neg") + b"\x88stR."))
    assert isinstance(flagged, Placeholder)
