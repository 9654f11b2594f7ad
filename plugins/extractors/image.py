"""Pictures: the text in them by OCR (PNG, JPEG, GIF, TIFF, WebP, BMP, HEIC, AVIF), and the caption that the file carries.

Of what a camera writes only captions are read: no place, no owner, no serial number.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors._ocr import read_picture, read_scans
from forge.plugins.extractors._ocr_engines import OcrEngine, choose_engine, engines_here
from forge.plugins.extractors._xml import parse_xml, tag_of
from forge.protocols import Reading
from forge.records import Piece
from forge.registry import missing

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {
    "PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "GIF": "image/gif", "TIFF": "image/tiff", "WEBP": "image/webp",
    "BMP": "image/bmp", "HEIF": "image/heic", "AVIF": "image/avif",
}
"""Pillow's formats that may be opened: others start programs (EPS) or are no pictures."""

MAX_PIXELS = 200_000_000
"""An A0 sheet at 300 dpi has 139 million."""

MAX_BYTES = 400_000_000
"""Of one decoded picture: 100 million pixels in colour, and all that MAX_PIXELS allows in grey, as which a JPEG is read.
Several files are read at once, and a grey copy comes on top."""

MAX_PAGES = 2_000
"""Of a TIFF: a file can hold millions of directories of 18 bytes."""

DAMAGE = (OSError, EOFError, ValueError, SyntaxError, ArithmeticError, LookupError, TypeError, RuntimeError)
"""What Pillow's parsers raise on damaged files (and struct.error)."""

HEIF_NEEDS = (Requirement(module="pillow_heif", extra="media"),)
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"}
BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
ANIMATED = {"GIF", "WEBP", "PNG", "AVIF"}
ANIMATION = "frames of an animation after the first"

DESCRIPTION, ORIENTATION, USER_COMMENT, EXIF_DIRECTORY = 0x010E, 0x0112, 0x9286, 0x8769
WINDOWS_TAGS = {0x9C9B: "title", 0x9C9C: "comment", 0x9C9F: "subject"}
PNG_TAGS = {"title", "description", "comment"}
XMP_TAGS = {"title", "description"}
NO_CAPTION = re.compile(r"(?i)olympus digital camera|(created|made) (with|by) (the )?gimp|screenshot|ascii")


class ImageExtractor:
    """Paragraphs of each picture, in the order of the recognised lines."""

    name: ClassVar[str] = "image"
    media_types: ClassVar[tuple[str, ...]] = tuple(dict.fromkeys(FORMATS.values()))
    extensions: ClassVar[Mapping[str, str]] = {
        ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".tif": "image/tiff",
        ".tiff": "image/tiff", ".webp": "image/webp", ".bmp": "image/bmp", ".heic": "image/heic", ".heif": "image/heic",
        ".avif": "image/avif",
    }
    magic: ClassVar[Mapping[bytes, str]] = {b"II+\0": "image/tiff", b"MM\0+": "image/tiff"}
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="PIL", extra="media"), Requirement(module="lxml", extra="media"))

    def state(self) -> str:
        """The OCR engines that this machine has."""
        return engines_here()

    def accepts(self, head: bytes, name: str) -> str:
        """HEIC and AVIF by their brand, BMP by its header ("BM" alone also starts texts)."""
        brand = head[8:12]
        if head[4:8] == b"ftyp" and (brand in HEIF_BRANDS or brand in {b"avif", b"avis"}):
            return "image/avif" if brand.startswith(b"avi") or b"avif" in head[16:64] else "image/heic"
        if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in BMP_HEADERS and head[6:10] == bytes(4):
            return "image/bmp"
        return ""

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield the caption as metadata, then the recognised text ("page=2" in a TIFF of several pages).

        Options ocr and ocr_languages. Raises ExtractError: damaged, or refused when it is larger than MAX_PIXELS.
        """
        engine = choose_engine(ctx.options)
        with warnings.catch_warnings():
            _bound_pillow()
            try:
                with _opened(path, ctx.media_type) as picture:
                    yield from _captions(picture)
                    yield from _text(picture, engine, ctx)
            except ExtractError:
                raise
            except _bombs() as error:
                raise ExtractError(f"picture refused: {error}", refused=True) from error
            except (*DAMAGE, struct.error) as error:
                told = str(error).replace(str(path), "the file")  # Pillow names the path that it was given
                raise ExtractError(f"damaged picture ({type(error).__name__}: {told})") from error


extractor = ImageExtractor()


def _bound_pillow() -> None:
    from PIL import Image as pillow

    pillow.MAX_IMAGE_PIXELS = MAX_PIXELS
    warnings.simplefilter("ignore")  # damaged EXIF blocks are told by warnings
    warnings.simplefilter("error", pillow.DecompressionBombWarning)


def _bombs() -> tuple[type[Exception], ...]:
    from PIL import Image as pillow

    return pillow.DecompressionBombWarning, pillow.DecompressionBombError


def _opened(path: Path, media_type: str) -> Image:
    from PIL import Image as pillow

    if media_type == "image/heic":
        if missing(HEIF_NEEDS):
            raise ExtractError("HEIC picture: pillow-heif is not installed", next="pip install 'slm-forge[media]'")
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    return pillow.open(path, formats=[name for name, kind in FORMATS.items() if kind == media_type])


def _text(picture: Image, engine: OcrEngine, ctx: Reading) -> Iterator[Piece]:
    if engine.why_not:
        yield Piece(text="", dropped=engine.why_not)
        return
    pages = list(_pages(picture)) if picture.format == "TIFF" else [0]
    if len(pages) == 1:
        yield from read_picture(_decoded(picture), engine)
    else:
        yield from read_scans(((f"page={page + 1}", _page_of(picture, page)) for page in pages), engine, ctx.options)
    if picture.format in ANIMATED and getattr(picture, "is_animated", False):
        yield Piece(text="", dropped=ANIMATION)


def _pages(picture: Any) -> Iterator[int]:
    """The pages' numbers from 0. Stops where the chain of directories ends, is damaged or comes back on itself."""
    for page in range(MAX_PAGES):
        try:
            picture.seek(page)
        except (EOFError, OSError, SyntaxError, ValueError):
            return
        yield page


def _page_of(picture: Image, page: int) -> Callable[[], Image]:
    def load() -> Image:
        picture.seek(page)
        return _decoded(picture)

    return load


def _decoded(picture: Image) -> Image:
    """The picture upright. Raises ExtractError (refused) when it would take too much memory; a JPEG comes in grey."""
    from PIL import ImageOps

    pixels = picture.width * picture.height
    picture.draft("L", picture.size)
    size = pixels if picture.mode in {"1", "L", "P"} else 4 * pixels
    if pixels > MAX_PIXELS or size > MAX_BYTES:
        raise ExtractError(
            f"picture of {pixels / 1e6:,.0f} million pixels", refused=True,
            why=f"at most {MAX_PIXELS / 1e6:,.0f} million are read, {MAX_BYTES / 4e6:,.0f} million in colour",
        )
    picture.load()
    is_upright = picture.getexif().get(ORIENTATION, 1) == 1
    return picture if is_upright else ImageOps.exif_transpose(picture)


def _captions(picture: Image) -> Iterator[Piece]:
    texts: list[str] = []
    for found in (_png_captions, _exif_captions, _xmp_captions):
        try:
            texts += found(picture)
        except (*DAMAGE, struct.error, ExtractError):
            yield Piece(text="", locator="caption", dropped="caption that cannot be read")
    for text in dict.fromkeys(" ".join(text.replace("\0", " ").split()) for text in texts):
        if text and not NO_CAPTION.fullmatch(text):
            yield Piece(text=text, locator="caption", kind="metadata")


def _png_captions(picture: Image) -> Iterator[str]:
    """Text chunks of a PNG; a GIF's or JPEG's comment."""
    for key, value in picture.info.items():
        if isinstance(key, str) and key.lower() in PNG_TAGS:
            yield value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _exif_captions(picture: Image) -> Iterator[str]:
    exif = picture.getexif()
    yield _decode(exif.get(DESCRIPTION))
    for tag in WINDOWS_TAGS:
        value = exif.get(tag)
        if isinstance(value, (bytes, tuple)):
            yield bytes(value).decode("utf-16-le", "replace")
    comment = exif.get_ifd(EXIF_DIRECTORY).get(USER_COMMENT)
    if isinstance(comment, bytes):  # eight bytes name its encoding
        wide = "utf-16-be" if exif.endian == ">" else "utf-16-le"
        yield comment[8:].decode(wide if comment.startswith(b"UNICODE") else "utf-8", "replace")


def _decode(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _xmp_captions(picture: Image) -> Iterator[str]:
    """dc:title and dc:description of an XMP packet."""
    packet = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp") or b""
    data = packet.encode() if isinstance(packet, str) else bytes(packet)
    if not data.strip(b"\0 \n"):
        return
    for node in parse_xml(data.strip(b"\0 \n"), "XMP packet").iter():
        if tag_of(node) in XMP_TAGS:
            yield "".join(node.itertext())
