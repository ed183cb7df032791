"""The benchmark of a second process runs, and counts what DDP sends."""

import json
import subprocess
import sys
from pathlib import Path

from chatlm.model.config import ModelConfig

ROOT = Path(__file__).parents[1]
SHAPE = {"d_model": 64, "layers": 1, "vocab_size": 500}


def test_scaling_reports_speeds_and_one_exchange_of_all_gradients():
    settings = SHAPE | {"rounds": 2, "pairs": 24, "microbatches": 3}
    done = subprocess.run(
        [sys.executable, "benchmarks/scaling.py", *(f"{k}={v}" for k, v in settings.items())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tokens_per_second"].keys() == {"alone", "side by side", "together"}
    assert all(speed > 0 for speed in found["tokens_per_second"].values())
    shape = ModelConfig(
        vocab_size=500,
        d_model=64,
        d_ff=128,
        num_heads=1,
        num_layers=1,
        num_decoder_layers=1,
        feed_forward_proj="gated-gelu",
    )
    # However many microbatches there are, every gradient goes out once, in fp32.
    assert found["gradient_bytes_a_step"] == 4 * shape.num_parameters()
    assert found["reductions_a_step"] == 1
    assert "tokens a step" in done.stdout
