"""Make the synthetic set of a method, for example `python generate.py method=2lora`."""

from sarsynth.cli import main

if __name__ == "__main__":
    main("generate")
