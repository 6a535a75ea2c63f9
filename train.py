"""Make one stage of the study, for example `python train.py stage=ors`."""

from sarsynth.cli import train

if __name__ == "__main__":
    train()
