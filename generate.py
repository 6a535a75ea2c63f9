"""Make the synthetic set of a method, for example `python generate.py method=2lora`."""

from sarsynth.cli import generate

if __name__ == "__main__":
    generate()
