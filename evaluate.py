"""Score methods, for example `python evaluate.py -m method=none,resample,2lora`."""

from sarsynth.cli import evaluate

if __name__ == "__main__":
    evaluate()
