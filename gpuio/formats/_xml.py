"""Small XML files that lie beside the data. Document types, entities and anything from outside of the file are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuio.errors import FormatError
from gpuio.source import Source

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

#: Recorded ones have some thousand bytes.
MAX_XML_BYTES = 1 << 20


def read_xml(source: Source, path: str) -> Element:
    """The root element of an XML file.

    Raises
    ------
    FormatError
        It is not well-formed, has a document type (and so may have entities), or more than `MAX_XML_BYTES` bytes.
    OSError, DataSetException
        As `Source.read`.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    text = source.read(path, 0, MAX_XML_BYTES + 1)
    if len(text) > MAX_XML_BYTES:
        raise FormatError(f"{path}: more than {MAX_XML_BYTES} bytes; expected a small XML file")
    try:
        root: Element = fromstring(text, forbid_dtd=True)
    except DefusedXmlException:
        raise FormatError(f"{path}: has a document type or entities, which are not read for safety; expected plain XML") from None
    except (SyntaxError, ValueError, LookupError) as error:     # not well-formed, or in an unknown encoding
        raise FormatError(f"{path}: not a well-formed XML file: {error}") from None
    return root
