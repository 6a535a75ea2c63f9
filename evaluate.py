"""Score methods, for example `python evaluate.py -m method=none,resample,2lora`."""

from sarsynth.cli import main

if __name__ == "__main__":
    main("evaluate")
