import importlib.util
import sys
import types

from saha_st.demo import gpu


def test_without_zero_gpu_encoding_is_a_plain_function():
    assert not gpu.ON_ZERO_GPU
    assert not hasattr(gpu.encode, "__wrapped__")


def test_on_zero_gpu_encoding_borrows_one(monkeypatch):
    asked = []

    def borrow(**options):
        asked.append(options)
        return lambda function: function

    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=borrow))
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    spec = importlib.util.spec_from_file_location("a_second_gpu", gpu.__file__)
    second = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(second)
    assert second.ON_ZERO_GPU
    assert asked == [{"duration": 30}]
