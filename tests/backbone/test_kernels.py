"""The compiled loops as processes keep them for each other; what they compute: see test_fused.py."""

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
    losses, slopes = engine.gradients(prompts_of(backbone, 3), rows, torch.ones(len(rows)))
    print(losses.tolist(), slopes.tolist())
"""


def test_a_process_that_compiles_and_one_that_finds_it_compiled_compute_the_same_bits(tmp_path):
    around = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}

    def bits():
        return subprocess.run(
            [sys.executable, "-c", PRINT_BITS], env=around, capture_output=True, text=True, check=True
        ).stdout

    fresh, kept = bits(), sorted(path.name for path in tmp_path.rglob("*.nbc"))
    assert len(kept) >= 8
    assert bits() == fresh
    assert sorted(path.name for path in tmp_path.rglob("*.nbc")) == kept, "the second compiled again"
