"""What every runtime has to keep, over every file of the folder; one that is not installed is skipped."""

import importlib.util

import pytest

from spaceevo.runtimes import RUNTIMES
from spaceevo.testing.runtimes import RuntimeSuite


class TestEveryRuntime(RuntimeSuite):
    @pytest.fixture(params=RUNTIMES.names())
    def name(self, request):
        return request.param


def test_every_builtin_runtime_is_covered():
    assert {"onnxruntime", "litert", "openvino"} <= set(RUNTIMES.names())
    assert importlib.util.find_spec("onnxruntime") is not None
