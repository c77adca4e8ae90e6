"""What the networks, arms, data sets and masks are called in tables and pictures."""

LABELS = {
    "dense": "teacher",
    "merlin": "Merlin",
    "merlin_no_hidden": "Merlin without hidden distillation",
    "merlin_no_result": "Merlin without result distillation",
    "merlin_no_contrast": "Merlin without contrast",
    "merlin_kd01": "Merlin, teacher weight 0.1",
    "merlin_kd05": "Merlin, teacher weight 0.5",
    "merlin_steady": "Merlin without decay",
    "merlin_apart": "Merlin, overlapping windows no rivals",
    "merlin_clean": "Merlin, complete view too",
    "merlin_mask": "Merlin with mask channel",
    "hidden": "hidden distillation alone",
    "result": "result distillation alone",
    "contrast": "contrast alone",
    "mixed_l1": "all rates, no teacher",
    "mixed_l1_clean": "all rates and complete view, no teacher",
    "mixed_l1_linear": "all rates, linear filling, no teacher",
    "per_rate": "a model per rate",
    "impute_mean": "teacher, mean filling",
    "impute_last": "teacher, last value",
    "impute_linear": "teacher, linear filling",
    "mask_channel": "all rates and mask channel, no teacher",
    "teacher_init": "all rates, from the teacher's weights",
    "merlin_teacher_init": "Merlin, from the teacher's weights",
}
NETS = {"stid": "STID", "tsmixer": "TSMixer", "dsformer": "DSformer"}


def label(variant: str) -> str:
    return LABELS.get(variant, variant.replace("_", " "))
