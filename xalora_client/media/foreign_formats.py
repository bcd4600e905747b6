"""Formats that no input image may have: their names, and what to do about each, for messages."""

from __future__ import annotations

_LINEAR = "whose light values have no fixed black and white; save it as a PNG in the program that made it"
_RAW = "a camera's raw file, which has to be developed first; export it as PNG, JPEG or TIFF"
_LAYERS = "a document of layers; export the picture as PNG"
_HEIC = "an HEIC photograph; pip install 'xalora[heif]' lets it be read, or save it as JPEG or PNG"

# (offset, bytes there, what it is)
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x76\x2f\x31\x01", f"an OpenEXR image, {_LINEAR}"),
    (0, b"#?RADIANCE", f"a Radiance HDR image, {_LINEAR}"),
    (0, b"#?RGBE", f"a Radiance HDR image, {_LINEAR}"),
    (0, b"SDPX", f"a DPX film scan, {_LINEAR}"),
    (0, b"XPDS", f"a DPX film scan, {_LINEAR}"),
    (0, b"\x80\x2a\x5f\xd7", f"a Cineon film scan, {_LINEAR}"),
    (0, b"8BPS", f"a Photoshop file, {_LAYERS}"),
    (0, b"gimp xcf", f"a GIMP file, {_LAYERS}"),
    (0, b"%PDF", "a PDF; export the page as PNG"),
    (0, b"DDS ", "a DirectDraw texture (DDS); save it as PNG"),
    (0, b"\xff\x0a", "a JPEG XL image; save it as PNG or JPEG"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image; save it as PNG or JPEG"),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (0, b"IIRO", _RAW),
    (0, b"IIU\0", _RAW),
    (4, b"ftypcrx ", _RAW),
    (8, b"CR\x02\0", _RAW),
    (4, b"ftypavif", "an AVIF image, which needs Pillow 11.3 or newer; or save it as PNG or JPEG"),
    (4, b"ftypavis", "an AVIF image, which needs Pillow 11.3 or newer; or save it as PNG or JPEG"),
    *((4, b"ftyp" + brand, _HEIC) for brand in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")),
    (4, b"ftyphev", "an HEIF image sequence; give its frames as images, each to a task of its own"),
    (4, b"ftyp", "a video or sound; give its frames as images, each to a task of its own"),
    (0, b"\x1a\x45\xdf\xa3", "a video or sound; give its frames as images, each to a task of its own"),
)
_TGA = "a TGA image, which nothing in the file identifies for sure; save it as PNG"
_TGA_FOOTER = b"TRUEVISION-XFILE"
_SVG = "an SVG drawing, which has no pixels yet; export it as PNG at the size you need"


def described(data: bytes, suffix: str = "") -> str | None:
    """What a file is and what to do about it, in words that follow "it is"; None where it is not known here.

    Args:
        data: The whole file.
        suffix: That of its name, in any case, where it has one.
    """
    for offset, signature, words in _SIGNATURES:
        if data.startswith(signature, offset):
            return words
    if _TGA_FOOTER in data[-26:] or suffix.lower() in {".tga", ".vda", ".icb", ".vst"}:
        return _TGA
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith((b"<svg", b"<?xml")) and b"<svg" in head:
        return _SVG
    return None
