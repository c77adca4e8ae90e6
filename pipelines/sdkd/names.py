"""What the networks and arms are called in tables and pictures."""

LABELS = {
    "dense": "teacher",
    "teacher": "teacher",
    "none": "no distillation",
    "output": "output distillation",
    "fitnet": "FitNet",
    "sdkd": "SDKD",
    "sdkd_low": "SDKD, low band",
    "sdkd_high": "SDKD, high band",
    "sdkd_output": "SDKD, bands of the output",
    "sdkd_output_energy": "SDKD, bands of the output by energy",
    "sdkd_serial": "SDKD, serial teacher",
    "sdkd_branches": "SDKD, the teacher's branches",
    "activation_boundary": "activation boundary",
    "random_teacher": "SDKD, untrained teacher",
    "average": "two teachers, averaged",
    "agree": "two teachers, AE-KD",
    "agree_three": "three teachers, AE-KD",
}
NETS = {
    "alternet": "ST-AlterNet",
    "alternet_serial": "ST-AlterNet, serial",
    "simvp": "SimVP",
    "unet": "U-Net",
    "resnet": "ResNet",
    "mixer": "MLP-Mixer",
}


def label(variant: str) -> str:
    return LABELS.get(variant, variant.replace("_", " "))


def net(name: str) -> str:
    return NETS.get(name, name)
