"""DICOM: what an image shows and how it was made, and the text of structured reports. Never who the patient is.

A header holds the patient's name, birth date and identifiers beside the technical facts, in a hundred places and in
private tags. So nothing is read but a short list of tags, and what those and a report's text hold is searched for the
names and numbers that the rest of the header calls personal. Pixels are never loaded.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.protocols import Reading
from forge.records import Piece

if TYPE_CHECKING:
    from pydicom import Dataset

MEDIA_TYPE = "application/dicom"
DEFLATED = "1.2.840.10008.1.2.1.99"
MAX_INFLATED_BYTES = 64 << 20
MAX_DEPTH = 64
MAX_ITEMS = 20_000
MAX_VALUE_CHARACTERS = 400
LAZY_BYTES = 1 << 20
"""Elements above this are not loaded: no text that we want is so long (a report's items are separate elements)."""

CODED = (
    "Modality", "BodyPartExamined", "ImageType", "ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType",
    "PhotometricInterpretation", "ViewPosition", "Laterality", "PatientPosition", "ConversionType",
)  # fmt: skip
FREE_TEXT = ("StudyDescription", "SeriesDescription", "ProtocolName")
MAKER = ("Manufacturer", "ManufacturerModelName")
"""Set by the machine; the name of a trial site's institution may be the maker's, so only persons' names are taken out."""

NUMBERS = (
    "Rows", "Columns", "NumberOfFrames", "BitsStored", "SliceThickness", "SpacingBetweenSlices", "PixelSpacing",
    "MagneticFieldStrength", "RepetitionTime", "EchoTime", "FlipAngle", "KVP",
)  # fmt: skip

CODE_STRING = re.compile(r"[A-Z0-9_ /-]{1,16}")
NUMBER = re.compile(r"[-+0-9.eE]{1,16}")

IDENTIFIERS = (
    "PatientID", "OtherPatientIDs", "PatientBirthDate", "PatientBirthName", "PatientAddress", "PatientTelephoneNumbers", "AccessionNumber",
    "StudyID", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "MedicalRecordLocator",
    "PersonAddress", "PersonTelephoneNumbers", "AdmissionID", "RequestingService", "DeviceSerialNumber",
)  # fmt: skip
PERSONAL_CONCEPT = re.compile(
    r"\b(name|observer|patient|subject|person|physician|doctor|nurse|operator|author|address|phone|telephone|e-?mail|birth|"
    r"id|identifier|number of the|organi[sz]ation|institution|hospital|referr\w+|requesting|signed|verif\w+)\b",
    re.IGNORECASE,
)
PERSONAL_TEXT = re.compile(
    r"\b(?:Dr|Mr|Mrs|Ms|Prof|Herr|Frau|Mme|Sr|Sra)\b\.?\s+(?:\w\.\s*)*\w+(?:[ ][^\W\d_a-z]\w+)?"  # a titled name
    r"|\b\d+(?:\.\d+){4,}\b|\b\d{8,}\b"                                  # a UID; a number long enough for an identifier
    r"|\b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}\b|\b\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}\b"  # a date
    r"|\b[\w.+-]+@[\w-]+\.[\w.]+\b|\+?\d[\d ()/-]{8,}\d",                # an address, a telephone number
)  # fmt: skip
REMOVED = "[removed]"


class DicomExtractor:
    """Technical facts as metadata, structured reports as prose under their headings."""

    name: ClassVar[str] = "dicom"
    media_types: ClassVar[tuple[str, ...]] = (MEDIA_TYPE,)
    extensions: ClassVar[Mapping[str, str]] = {".dcm": MEDIA_TYPE, ".dicom": MEDIA_TYPE}
    magic: ClassVar[Mapping[bytes, str]] = {  # files without the preamble start with group 8 (or the meta group 2)
        b"\x08\x00\x00\x00UL\x04\x00": MEDIA_TYPE, b"\x08\x00\x00\x00\x04\x00\x00\x00": MEDIA_TYPE,
        b"\x08\x00\x05\x00CS": MEDIA_TYPE, b"\x02\x00\x00\x00UL\x04\x00": MEDIA_TYPE,
    }  # fmt: skip
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="pydicom", extra="science"),)

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield one piece of facts, then a report's items ("item=1.4.2"). Raises ExtractError when it is not DICOM."""
        with path.open("rb") as file:
            _check_deflated(file)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom warns of every odd value, and may quote it
                found = list(_pieces(_load(path)))
        except (ExtractError, MemoryError):
            raise
        except Exception as error:  # pydicom lets whatever a broken value causes through: any of a dozen types
            raise ExtractError(f"damaged DICOM file ({type(error).__name__})") from error  # its message may quote a value
        yield from found


extractor = DicomExtractor()


def _check_deflated(file: BinaryIO) -> None:
    """Raise ExtractError when a deflated data set is a bomb: pydicom inflates it whole."""
    head = file.read(144)
    if head[128:132] != b"DICM" or len(head) < 144:
        return
    meta = file.read(min(struct.unpack("<I", head[140:144])[0], 1 << 16))
    if DEFLATED.encode() not in meta:
        return
    inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while chunk := (inflater.unconsumed_tail or file.read(1 << 16)):
        try:
            total += len(inflater.decompress(chunk, 1 << 20))
        except zlib.error as error:
            raise ExtractError("damaged DICOM file (its deflated part)") from error
        if total > MAX_INFLATED_BYTES:
            raise ExtractError(f"its header unpacks to more than {MAX_INFLATED_BYTES >> 20} MiB", refused=True)


def _load(path: Path) -> Dataset:
    from pydicom import config, dcmread

    config.settings.reading_validation_mode = config.IGNORE
    data = dcmread(path, stop_before_pixels=True, force=True, defer_size=LAZY_BYTES)
    if not {"SOPClassUID", "Modality", "DirectoryRecordSequence", "StudyInstanceUID"} & set(data.dir()):
        raise ExtractError("not a DICOM file: none of the tags that each has")
    return data


def _pieces(data: Dataset) -> Iterator[Piece]:
    secrets = _Secrets(data)
    facts = [*_class_name(data), *_facts(data, secrets)]
    directory = data.get("DirectoryRecordSequence") or []
    for record in directory[:MAX_ITEMS]:
        secrets.learn(record)
    facts += _directory(directory, secrets)
    yield Piece(text="\n".join(facts), locator="header", kind="metadata")
    if "EncapsulatedDocument" in data:
        yield Piece(text="", dropped="embedded document: it may name the patient")
    if "ContentSequence" in data:
        yield from _Report(secrets).pieces(data)
    if secrets.hits:
        yield Piece(text="", dropped="personal data removed from the text")


def _class_name(data: Dataset) -> list[str]:
    """ "CT Image Storage": the standard's name of the kind of object, not the identifier."""
    from pydicom.uid import UID_dictionary

    known = UID_dictionary.get(str(data.get("SOPClassUID", "")))
    return [f"Kind: {known[0]}"] if known else []


def _facts(data: Dataset, secrets: _Secrets) -> list[str]:
    lines = []
    for keyword in (*CODED, *FREE_TEXT, *MAKER, *NUMBERS):
        value = data.get(keyword)
        if value is None or value == "":
            continue
        values = [str(one).strip() for one in (value if _is_many(value) else [value])]
        if keyword in FREE_TEXT:
            kept = [secrets.clean(one[:MAX_VALUE_CHARACTERS]) for one in values[:8]]
        elif keyword in MAKER:
            kept = [secrets.clean_names(one[:MAX_VALUE_CHARACTERS]) for one in values[:8]]
        else:
            form = CODE_STRING if keyword in CODED else NUMBER
            kept = [secrets.clean(one) for one in values[:8] if form.fullmatch(one)]
        if any(kept):
            lines.append(f"{_words(keyword)}: {', '.join(filter(None, kept))}")
    return lines


def _is_many(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue"


def _words(keyword: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", keyword)


def _directory(records: list[Dataset], secrets: _Secrets) -> list[str]:
    """A DICOMDIR: how many records of each kind, and the distinct facts of studies and series."""
    counts: dict[str, int] = {}
    lines: dict[str, None] = {}
    for record in records[:MAX_ITEMS]:
        kind = str(record.get("DirectoryRecordType", ""))
        if CODE_STRING.fullmatch(kind):
            counts[kind] = counts.get(kind, 0) + 1
        lines.update(dict.fromkeys(_facts(record, secrets)))
    return [*(f"{kind} records: {count}" for kind, count in counts.items()), *lines]


class _Secrets:
    """What the header calls personal, to be taken out of every text that is kept."""

    def __init__(self, data: Dataset) -> None:
        self.words: set[str] = set()
        self.values: set[str] = set()
        self.hits = 0
        self.left = MAX_ITEMS
        self.learn(data)

    def learn(self, data: Dataset, depth: int = 0) -> None:
        """Remember every person's name and identifier, at any depth. Raises ExtractError beyond a sane depth."""
        if depth > MAX_DEPTH:
            raise ExtractError(f"its sequences are nested more than {MAX_DEPTH} deep", refused=True)
        for tag in list(data.keys()):
            kind = _kind(data, tag)
            if kind == "PN":
                self.words.update(word.casefold() for word in re.findall(r"[^\W_]{2,}", str(data[tag].value)))
            elif kind == "SQ":
                for item in data[tag].value or []:
                    self.left -= 1
                    if self.left < 0:
                        raise ExtractError(f"more than {MAX_ITEMS:,} items in its sequences", refused=True)
                    self.learn(item, depth + 1)
            elif kind == "ID":
                self.values.update(one for one in re.split(r"[\\',\[\]]+", str(data[tag].value)) if len(one.strip()) > 3)

    def clean(self, text: str) -> str:
        """The text without names, identifiers, dates, addresses and numbers that a person may be found by."""
        found = PERSONAL_TEXT.sub(REMOVED, text)
        for value in sorted(self.values, key=lambda value: (-len(value), value)):
            found = re.sub(re.escape(value.strip()), REMOVED, found, flags=re.IGNORECASE)
        self.hits += found != text
        return self.clean_names(found)

    def clean_names(self, text: str) -> str:
        """The text without words of any person's name in the header."""
        found = re.sub(r"[^\W_]{2,}", lambda word: REMOVED if word[0].casefold() in self.words else word[0], text)
        self.hits += found != text
        return found


def _kind(data: Dataset, tag: Any) -> str:
    """PN, SQ, ID (an identifier), or "": without converting the value."""
    from pydicom.datadict import dictionary_VR, keyword_for_tag

    if keyword_for_tag(tag) in IDENTIFIERS:
        return "ID"
    kind = data.get_item(tag).VR
    if kind in (None, "UN"):
        try:
            kind = dictionary_VR(tag)
        except KeyError:
            return ""
    return str(kind) if kind in ("PN", "SQ") else ""


class _Report:
    """The content tree of a structured report: containers are headings, texts and codes follow."""

    def __init__(self, secrets: _Secrets) -> None:
        self.secrets = secrets
        self.left_out = 0

    def pieces(self, data: Dataset) -> Iterator[Piece]:
        title = self._concept(data)
        path = [title] if title else []
        if title:
            yield Piece(text=title, heading=title, kind="heading", locator="item=1")
        yield from self._items(data, path, "1")
        for _ in range(self.left_out):
            yield Piece(text="", dropped="personal item of a report")

    def _items(self, data: Dataset, path: list[str], place: str) -> Iterator[Piece]:
        for number, item in enumerate(data.get("ContentSequence") or [], 1):
            yield from self._item(item, path, f"{place}.{number}")

    def _item(self, item: Dataset, path: list[str], place: str) -> Iterator[Piece]:
        name, kind = self._concept(item), str(item.get("ValueType", ""))
        if str(item.get("RelationshipType", "")).strip() == "HAS OBS CONTEXT" or self._is_personal(name, kind):
            self.left_out += 1  # who observed, whom, where: with all below it
            return
        text = self._value(item, kind)
        if kind == "CONTAINER" and name:
            path = [*path, name]
            yield Piece(text=name, heading=" > ".join(path), kind="heading", locator=f"item={place}")
        elif text or name:
            yield Piece(text=": ".join(filter(None, (name, text))), heading=" > ".join(path), locator=f"item={place}")
        yield from self._items(item, path, place)

    def _is_personal(self, name: str, kind: str) -> bool:
        return kind in {"PNAME", "DATE", "DATETIME", "TIME", "UIDREF"} or (kind == "TEXT" and bool(PERSONAL_CONCEPT.search(name)))

    def _concept(self, item: Dataset) -> str:
        return self._meaning(item.get("ConceptNameCodeSequence"))

    def _meaning(self, codes: Any) -> str:
        meaning = str(codes[0].get("CodeMeaning", "")) if codes else ""
        return self.secrets.clean(meaning[:MAX_VALUE_CHARACTERS]).replace(" > ", " › ").strip()

    def _value(self, item: Dataset, kind: str) -> str:
        if kind == "TEXT":
            return self.secrets.clean(str(item.get("TextValue", "") or "")).strip()
        if kind == "CODE":
            return self._meaning(item.get("ConceptCodeSequence"))
        if kind == "NUM" and (measured := item.get("MeasuredValueSequence")):
            unit = self._meaning(measured[0].get("MeasurementUnitsCodeSequence"))
            value = str(measured[0].get("NumericValue", ""))
            return f"{value} {unit}".strip() if NUMBER.fullmatch(value) else ""
        return ""
