"""What the networks and arms are called in tables and pictures."""

LABELS = {
    "dense_more": "dense, more updates",
    "sepprune": "SepPrune",
    "sepprune_literal": "SepPrune, threshold rule",
    "joint": "masks and weights jointly",
    "l1": "L1",
    "taylor": "Taylor",
    "scratch": "from scratch",
}
NETS = {"sudormrf": "SuDoRM-RF", "afrcnn": "A-FRCNN", "tdanet": "TDANet"}


def label(variant: str) -> str:
    return LABELS.get(variant, variant.replace("_", " "))
