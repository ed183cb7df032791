"""A layer is compiled once, in one graph, for all layers of its kind and all batches of a shape."""

import subprocess
import sys

# In a process of its own: the type checks that the tests wrap around functions cannot be traced.
SCRIPT = """
import torch
from chatlm.model.config import ModelConfig
from chatlm.model.t5 import T5

torch.set_num_threads(1)
config = ModelConfig(61, 32, 8, 48, 3, 2, 2)
plain, compiled = T5(config), T5(config)
compiled.load_state_dict(plain.state_dict())
for model in (plain, compiled):
    model.attention, model.longest = "sdpa", (24, 32)
for layer in (*compiled.encoder.layers, *compiled.decoder.layers):
    layer.compile(dynamic=False, fullgraph=True, backend="aot_eager")

def gradients(model, batch):
    model.zero_grad()
    output = model(*batch)
    output.loss_sum.backward()
    return [output.loss_sum, *(weight.grad for weight in model.parameters())]

for sources, targets in (((9, 24, 7, 8), (20, 1, 32, 11)), ((24, 0, 1, 23), (30, 31, 3, 0))):
    batch = (
        torch.randint(3, 61, (48,)),
        torch.randint(3, 61, (64,)),
        torch.tensor([0, *sources]).cumsum(0).int(),
        torch.tensor([0, *targets]).cumsum(0).int(),
    )
    for ours, expected in zip(gradients(compiled, batch), gradients(plain, batch), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


def test_four_layers_and_two_batches_are_two_graphs_and_give_the_same_gradients():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["2"]
