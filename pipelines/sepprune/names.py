"""What the networks and arms are called in tables and pictures."""

LABELS = {
    "dense_more": "dense, more updates",
    "sepprune": "SepPrune",
    "sepprune_literal": "SepPrune, threshold rule",
    "sepprune_literal_eps05": "threshold rule, ε 0.5",
    "sepprune_literal_eps09": "threshold rule, ε 0.9",
    "sepprune_masks300": "SepPrune, 300 mask updates",
    "sepprune_masks1100": "SepPrune, 1100 mask updates",
    "joint": "masks and weights jointly",
    "l1": "L1",
    "taylor": "Taylor",
    "scratch": "from scratch",
}
NETS = {"sudormrf": "SuDoRM-RF", "afrcnn": "A-FRCNN", "tdanet": "TDANet"}


def label(variant: str) -> str:
    return LABELS.get(variant, variant.replace("_", " "))
