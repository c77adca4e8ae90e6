"""How a stage is done: the parts that papers share, one package a stage, in data-flow order."""
