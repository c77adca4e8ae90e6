"""A net that learns the sine, slowly enough to be killed."""

import time

import torch
from safetensors.torch import save

from stages.core import params as core
from stages.core.files import read_json, write_bytes
from stages.teach import loop


class Params(core.Params):
    steps: int
    pause: float


def run(params, inputs, out, job):
    x = torch.tensor(read_json(inputs["prepare"] / "numbers.json")).view(-1, 1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    spec = loop.TrainSpec(
        steps=params.steps,
        epochs=None,
        batch=8,
        optimizer="adam",
        lr=0.01,
        weight_decay=0.0,
        schedule="cosine",
        warmup=5,
        plateau_patience=5,
        plateau_threshold=0.1,
        clip=1.0,
        ema=0.9,
        validate_every=20,
    )

    def loss(model, step):
        time.sleep(params.pause)
        batch = x[torch.randint(len(x), (8,))]
        return (model(batch) - torch.sin(6 * batch)).square().mean()

    loop.CHECKPOINT_SECONDS = 0.1
    done = loop.fit(
        net,
        loss,
        spec,
        job=job,
        name="net",
        seed=0,
        validate=lambda m: float((m(x) - torch.sin(6 * x)).square().mean()),
    )
    write_bytes(out / "model.safetensors", save(done.best))
    for i in range(20):
        write_bytes(out / f"part{i:02}.bin", save(done.last) * 50)
