"""DICOM: technical facts and report texts come out, and nothing that tells who the patient is."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from forge.errors import ExtractError
from forge.plugins.extractors.dicom import FREE_TEXT, MAKER, extractor
from forge.protocols import Reading
from forge.records import Piece

if TYPE_CHECKING:
    from pydicom import Dataset

NAME, SURNAME, NUMBER = "Quentin", "Zaphodsson", "PID-77431"
TEXT_KINDS = {"AE", "LO", "LT", "SH", "ST", "UC", "UR", "UT", "PN", "CS", "AS", "DA", "DT", "TM", "UI"}


def read(path: Path) -> list[Piece]:
    return list(extractor.extract(path, Reading("application/dicom")))


def text_of(pieces: list[Piece]) -> str:
    return "\n".join(f"{piece.heading} {piece.text} {piece.dropped}" for piece in pieces)


def data_set(**tags: Any) -> Dataset:
    from pydicom import Dataset

    data = Dataset()
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data.Modality = "CT"
    for keyword, value in tags.items():
        setattr(data, keyword, value)
    return data


def save(data: Dataset, path: Path) -> Path:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.save_as(path, enforce_file_format=True)
    return path


def code(meaning: str) -> Dataset:
    from pydicom import Dataset

    one = Dataset()
    one.CodeValue, one.CodingSchemeDesignator, one.CodeMeaning = "1", "99T", meaning
    return one


def item(kind: str, name: str, **tags: Any) -> Dataset:
    from pydicom import Dataset

    one = Dataset()
    one.RelationshipType, one.ValueType = tags.pop("relation", "CONTAINS"), kind
    one.ConceptNameCodeSequence = [code(name)]
    for keyword, value in tags.items():
        setattr(one, keyword, value)
    return one


def test_the_facts_of_an_image_are_metadata_and_its_pixels_are_never_loaded(tmp_path: Path) -> None:
    data = data_set(Manufacturer="Example Scanners", StudyDescription="Chest, low dose", Rows=4, Columns=8, PixelSpacing=[0.5, 0.5])
    data.BitsAllocated, data.SamplesPerPixel, data.PixelRepresentation = 8, 1, 0
    data.add_new(0x7FE00010, "OB", b"\x01" * 32)
    path = save(data, tmp_path / "a.dcm")
    damaged_pixels = path.read_bytes()[:-20]  # the header is whole, the picture is not
    path.write_bytes(damaged_pixels)
    (piece,) = read(path)
    assert piece.kind == "metadata"
    for fact in ("Kind: CT Image Storage", "Manufacturer: Example Scanners", "Study Description: Chest, low dose", "Columns: 8"):
        assert fact in piece.text


def test_no_tag_outside_the_list_comes_out(tmp_path: Path) -> None:
    """Every text tag of the standard holds its own secret, at the top and in a sequence, beside private ones."""
    from pydicom import Dataset
    from pydicom.datadict import DicomDictionary

    data, inner = data_set(), Dataset()
    planted = 0
    for tag, (kind, _, _, _, keyword) in sorted(DicomDictionary.items()):
        if kind in TEXT_KINDS and keyword and tag >> 16 not in (0x0000, 0x0002) and keyword not in {"SpecificCharacterSet", *FREE_TEXT, *MAKER}:
            value = "19620304" if kind in ("DA", "DT") else "1.2.999.4242" if kind == "UI" else f"SECRET{tag:X}"[:16]
            for target in (data, inner):
                target.add_new(tag, kind, value)
            planted += 1
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data.ReferencedStudySequence = [inner]
    block = data.private_block(0x0099, "SECRET maker", create=True)
    block.add_new(1, "LO", "SECRET private")
    block.add_new(2, "PN", "SECRET^Person")
    assert planted > 1_000
    out = text_of(read(save(data, tmp_path / "a.dcm")))
    leaks = [line for line in out.splitlines() if "SECRET" in line]
    assert {line.split(":")[0].strip() for line in leaks} <= {  # coded values of the list: digits and capitals, no free text
        "Modality", "Body Part Examined", "Image Type", "Scanning Sequence", "Sequence Variant", "Scan Options", "MRAcquisition Type",
        "Photometric Interpretation", "View Position", "Laterality", "Patient Position", "Conversion Type",
    }  # fmt: skip
    assert "19620304" not in out
    assert "999.4242" not in out


def test_a_name_from_the_header_is_taken_out_of_every_text_that_is_kept(tmp_path: Path) -> None:
    from pydicom import Dataset

    other = Dataset()
    other.OperatorsName = "Miller^Anna"
    data = data_set(
        PatientName=f"{SURNAME}^{NAME}", PatientID=NUMBER, StudyDescription=f"Chest of {NAME.upper()} {SURNAME}, {NUMBER}",
        SeriesDescription="seen by Dr. Wolfram on 1962-03-04 tel +49 30 1234567 a.b@example.org", ProtocolName="THORAX MILLER",
        Manufacturer=f"{SURNAME} GmbH", BodyPartExamined="ZAPHODSSON", ReferencedStudySequence=[other],
    )  # fmt: skip
    out = text_of(read(save(data, tmp_path / "a.dcm"))).casefold()
    for secret in (NAME, SURNAME, NUMBER, "Wolfram", "1962", "1234567", "example.org", "Miller"):
        assert secret.casefold() not in out
    assert "chest of" in out
    assert "thorax" in out
    assert "personal data removed" in out


def test_names_in_several_character_sets_are_taken_out(tmp_path: Path) -> None:
    data = data_set(StudyDescription="検査 やまだ", SeriesDescription="山田 Yamada", Manufacturer="Example")
    data.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    data.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    out = text_of(read(save(data, tmp_path / "a.dcm")))
    assert "Manufacturer: Example" in out
    for secret in ("やまだ", "たろう", "山田", "太郎", "Yamada", "Tarou"):
        assert secret not in out


def test_a_structured_report_is_prose_without_its_persons(tmp_path: Path) -> None:
    from pydicom import Dataset

    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "12", [code("millimetre")]
    report = data_set(
        Modality="SR", PatientName=f"{SURNAME}^{NAME}", ConceptNameCodeSequence=[code("Radiology Report")],
        ContentSequence=[
            item("PNAME", "Recording Observer", PersonName="Watson^John"),
            item("TEXT", "Observer's Organization Name", relation="HAS OBS CONTEXT", TextValue="Saint Mary"),
            item("TEXT", "Patient address", TextValue="Baker Street 221b"),
            item("CONTAINER", "Findings", ContentSequence=[
                item("TEXT", "Finding", TextValue=f"{NAME} shows a nodule in the left lung, as Watson said."),
                item("NUM", "Diameter", MeasuredValueSequence=[measured]),
                item("CODE", "Severity", ConceptCodeSequence=[code("mild")]),
                item("DATE", "Seen on", Date="20200101"),
            ]),
        ],
    )  # fmt: skip
    pieces = read(save(report, tmp_path / "a.dcm"))
    kept = [piece for piece in pieces if not piece.dropped and piece.kind != "metadata"]
    assert [(piece.text, piece.locator) for piece in kept] == [
        ("Radiology Report", "item=1"), ("Findings", "item=1.4"),
        ("Finding: [removed] shows a nodule in the left lung, as [removed] said.", "item=1.4.1"),
        ("Diameter: 12 millimetre", "item=1.4.2"), ("Severity: mild", "item=1.4.3"),
    ]  # fmt: skip
    assert kept[2].heading == "Radiology Report > Findings"
    assert sum(piece.dropped == "personal item of a report" for piece in pieces) == 4
    for secret in (NAME, SURNAME, "Watson", "Baker", "Mary", "2020"):
        assert secret not in text_of(pieces)


def test_a_directory_gives_counts_and_series_but_no_patient(tmp_path: Path) -> None:
    def record(kind: str, **tags: Any) -> Dataset:
        return data_set(DirectoryRecordType=kind, **tags)

    data = data_set(DirectoryRecordSequence=[
        record("PATIENT", PatientName=f"{SURNAME}^{NAME}", PatientID=NUMBER),
        record("STUDY", StudyDescription=f"Knee {SURNAME}"), record("SERIES", SeriesDescription="T1 sagittal"), record("IMAGE"), record("IMAGE"),
    ])  # fmt: skip
    out = text_of(read(save(data, tmp_path / "DICOMDIR")))
    assert "IMAGE records: 2" in out
    assert "T1 sagittal" in out
    assert "Knee [removed]" in out
    assert not any(secret in out for secret in (NAME, SURNAME, NUMBER))


def test_garbage_and_lying_headers_are_an_extract_error(tmp_path: Path) -> None:
    whole = save(data_set(StudyDescription="x" * 50, Manufacturer="Y"), tmp_path / "good.dcm").read_bytes()
    rng = random.Random(1)
    bad = [b"", b"hello", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + rng.randbytes(3000), rng.randbytes(500)]
    for _ in range(40):
        flipped = bytearray(whole)
        for _ in range(8):
            flipped[rng.randrange(128, len(flipped))] = rng.randrange(256)
        bad.append(bytes(flipped[: rng.randrange(150, len(flipped))]))
    path = tmp_path / "bad.dcm"
    reasons = []
    for data in bad:
        path.write_bytes(data)
        try:
            read(path)
        except ExtractError as error:
            reasons.append(str(error))
    assert len(reasons) > 5
    assert not any("xxx" in reason for reason in reasons)


def test_nothing_is_said_on_the_console(tmp_path: Path, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(data_set(StudyDescription="plain", PatientName="Doe^Jane"), tmp_path / "odd.dcm")
    path.write_bytes(path.read_bytes().replace(b"CT", b"\xff\xfe") + b"\x99\x00\x99\x00ZZ\x04\x00Jane")
    out = text_of(read(path))
    assert "Study Description: plain" in out
    assert "Jane" not in out
    assert list(recwarn) == []
    assert capfd.readouterr() == ("", "")


def test_a_deflated_bomb_is_refused(tmp_path: Path) -> None:
    import struct
    import zlib

    uid = b"1.2.840.10008.1.2.1.99"
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    meta = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(element)) + element
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(80)) + packer.flush()
    path = tmp_path / "bomb.dcm"
    path.write_bytes(bytes(128) + b"DICM" + meta + body)
    with pytest.raises(ExtractError) as error:
        read(path)
    assert error.value.refused


def test_endless_nesting_is_no_crash(tmp_path: Path) -> None:
    data = data_set()
    for _ in range(80):
        outer = data_set(ReferencedStudySequence=[data])
        data = outer
    with pytest.raises(ExtractError, match="nested"):
        read(save(data, tmp_path / "deep.dcm"))
