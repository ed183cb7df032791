"""The comparison of resumed trainings runs on a CPU, which repeats itself to the bit."""

import json

from benchmarks import gpu_resume

TINY = {
    "device": "cpu",
    "precision": "fp32",
    "d_model": 32,
    "layers": 1,
    "steps": 4,
    "pairs": 70,
    "batch_size": 16,
    "dropout": 0.1,
    "modes": "True",
}


def test_a_training_resumed_in_a_new_process_is_the_same_to_the_bit(capfd):
    assert gpu_resume.main([f"{key}={value}" for key, value in TINY.items()]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])["True"]
    assert found["again"]["equal_losses"] == found["again"]["losses"] == 4
    assert found["resumed"]["equal_losses"] == found["resumed"]["losses"] == 2
    assert found["again"]["equal_weights"]
    assert found["resumed"]["equal_weights"]
    assert found["level"].startswith("E1")
