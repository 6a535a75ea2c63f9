"""What every part of the settings is made of: a model that knows all of its keys, and kinds of values."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]
PassPrecision = Literal["trainer", "auto", "32-true", "bf16-mixed"]


class Section(BaseModel):
    """A part of the configuration: every key is known, and has a value in `conf/` unless it may be absent."""

    # A folder may be called 2024, and a class 7: where a text is due, a number is one.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)
