"""Numbers to learn from."""

from stages.core import params as core
from stages.core.files import write_json


class Params(core.Params):
    numbers: int


def run(params, inputs, out, job):
    write_json(out / "numbers.json", [i / params.numbers for i in range(params.numbers)])
