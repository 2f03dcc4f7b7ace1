"""Kernels that are not there are told apart from kernels that are broken."""

import sys
from importlib.machinery import PathFinder

import openinference_engine
import pytest
from openinference_engine.errors import StartError
from openinference_engine.ops.cuda import load_kernels

MODULE = "openinference_engine._C"


def test_missing_kernels_say_how_to_get_them(monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, None)
    with pytest.raises(StartError, match="make build-cuda"):
        load_kernels()


def test_broken_kernels_raise_what_the_loader_said(monkeypatch, tmp_path):
    (tmp_path / "_C.py").write_text("import a_library_that_is_gone")
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setattr(openinference_engine, "__path__", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [PathFinder])  # an editable install would find its own
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_gone"):
        load_kernels()
