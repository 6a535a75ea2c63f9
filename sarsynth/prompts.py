"""What is said of an image: templates over class name and text. The wording itself lives in the configuration."""

from collections.abc import Sequence

from sarsynth.data.records import ImageRecord
from sarsynth.errors import UserError


def caption(template: str, class_name: str, text: str | None = None) -> str:
    """Fill a template, e.g. `a SAR image of {class_name} ship` or `{text}`.

    Args:
        template: May name `{class_name}` and `{text}`.
        class_name: Underscores become spaces.
        text: The image's own text, if it has one.

    Raises:
        UserError: The template names something else, or a text that the image has not.
    """
    if "{text}" in template and text is None:
        raise UserError(
            f"prompt='{template}': the images of class {class_name} have no text; use {{class_name}} instead"
        )
    try:
        return template.format(class_name=class_name.replace("_", " "), text=text)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"prompt='{template}': only {{class_name}} and {{text}} can stand in braces") from error


def captions(template: str, records: Sequence[ImageRecord], classes: Sequence[str]) -> list[str]:
    """Fill a template for each image."""
    return [caption(template, classes[record.label], record.text) for record in records]
