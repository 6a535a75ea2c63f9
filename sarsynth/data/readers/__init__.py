"""Readers: from an archive as it was downloaded to records and images, one data set a file. Torch-free.

A reader is a `FileSource` whose constructor finds the archive (`folders.locate`), lists its images (`entries.Entry`, or
`scenes.cut_scenes` where objects are marked), draws splits where the data set has none (`entries.split_off`), and hands
all of that on. Its docstring draws the tree that it expects, and describes the arguments that it alone has. These are
the same everywhere:

    root: The folder that the archive was unpacked to, or one up to two levels above it.
    channels: 1 (grey) or 3 (RGB).
    crop: Side in px of the square cut from the centre of every image; None for all of it.
    size: Side of each chip in px; None fits it to its object.
    margin: Share of the object's longer side that a fitted chip leaves on each side of it.
    rotate: Turn each chip so that its object's longer side lies along the rows.
    categories: Objects to cut chips for; the classes.
    val: Fraction of each training class for validation, whole groups at a time; None for none.
    test: The same for testing.
    split_seed: Of the draw of both.
    other_below: Classes with fewer test images than that become `other`.

All of them raise `UserError` where a folder, an annotation or an argument is not as it should be.
"""
