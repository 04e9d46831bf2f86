"""DM3 and DM4 files put together by hand, tag by tag; nothing is shared with the writer."""

from __future__ import annotations

import struct

import numpy as np

from tests.formats.k2is_files import group, tag, tag_file

#: dtype: DataType, infos of an item of the array.
TYPES = {"i2": (1, (2,)), "f4": (2, (6,)), "c8": (3, (15, 0, 2, 0, 6, 0, 6)), "u1": (6, (10,)), "i4": (7, (3,)), "i1": (9, (9,)),
         "u2": (10, (4,)), "u4": (11, (5,)), "f8": (12, (7,)), "c16": (13, (15, 0, 2, 0, 7, 0, 7)), "b1": (14, (8,)), "i8": (39, (11,)),
         "u8": (40, (12,))}


class Dm:
    """Makes tags of one version and byte order."""

    def __init__(self, version=4, order="<"):
        self.version, self.order = version, order

    def group(self, name, *entries):
        return group(name, *entries, version=self.version)

    def value(self, name, infos, raw):
        wide = ">I" if self.version == 3 else ">Q"
        return tag(name, b"%%%%" + b"".join(struct.pack(wide, n) for n in (len(infos), *infos)) + raw, self.version)

    def u4(self, name, number):
        return self.value(name, (5,), struct.pack(self.order + "I", number))

    def f4(self, name, number):
        return self.value(name, (6,), struct.pack(self.order + "f", number))

    def flag(self, name, state):
        return self.value(name, (8,), bytes([state]))

    def text(self, name, text):
        raw = text.encode("utf-16-le" if self.order == "<" else "utf-16-be")
        return self.value(name, (20, 4, len(raw) // 2), raw)

    def image(self, array, units=(), tags=(), data_type=None, dims=None, name="n"):
        """An entry of the list of images, of an array in the order of storage, slowest axis first; `units` fastest first."""
        kind, infos = TYPES[array.dtype.str[1:]]
        dims = array.shape[::-1] if dims is None else dims
        axes = [self.group("", self.f4("Origin", 3.0), self.f4("Scale", 0.5), self.text("Units", unit)) for unit in units]
        return self.group(
            "",
            self.group("ImageData", self.group("Calibrations", self.group("Dimension", *axes)),
                       self.value("Data", (20, *infos, array.size), array.astype(array.dtype.newbyteorder(self.order)).tobytes()),
                       self.u4("DataType", kind if data_type is None else data_type),
                       self.group("Dimensions", *(self.u4("", n) for n in dims))),
            self.group("ImageTags", *tags), self.text("Name", name))

    def thumbnail(self):
        return self.image(np.arange(6, dtype="i4").reshape(2, 3), data_type=23)

    def file(self, *images, previews=()):
        entries = [self.group("ImageList", *images)]
        if previews:
            entries.append(self.group("Thumbnails", *(self.group("", self.u4("ImageIndex", i)) for i in previews)))
        return tag_file(*entries, version=self.version, flag=int(self.order == "<"))

    def swapped(self, state):
        return self.group("Meta Data", self.flag("Data Order Swapped", state))
