"""Test that cached kernels are reproducible; test_fused.py tests their results."""

import os
import subprocess
import sys

PRINT_BITS = """
import torch
from dataclasses import replace
from test_forward import prompts_of, rows_of
from tiny import tiny_backbone, tiny_model
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.fused import fuse

torch.set_num_threads(1)
rows = rows_of(3)
for dtype in (torch.float32, torch.bfloat16):
    model = tiny_model("llama").to(dtype).requires_grad_(False).eval()
    assert fuse(model)
    backbone = replace(tiny_backbone("llama"), model=model, dtype=dtype)
    engine = Engine(backbone, "fused")
    losses, gradients = engine.gradients(prompts_of(backbone, 3), rows, torch.ones(len(rows)))
    print(losses.tolist(), gradients.tolist())
"""


def test_cached_kernels_compute_same_bits_as_compiled(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}

    def bits():
        return subprocess.run(
            [sys.executable, "-c", PRINT_BITS], env=environment, capture_output=True, text=True, check=True
        ).stdout

    compiled, files = bits(), sorted(path.name for path in tmp_path.rglob("*.nbc"))
    assert len(files) >= 8
    assert bits() == compiled
    assert sorted(path.name for path in tmp_path.rglob("*.nbc")) == files, "the second process recompiled"
