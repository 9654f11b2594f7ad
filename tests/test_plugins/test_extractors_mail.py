"""Mail: one text per message, attachments handed back, nothing of a hostile message believed."""

from __future__ import annotations

import base64
from email.message import EmailMessage
from pathlib import Path

import pytest

from forge.errors import ExtractError
from forge.plugins.extractors.mail import extractor
from forge.protocols import Embedded, Reading
from forge.records import Piece
from tests.corpus import outlook

MESSAGE, MAILBOX, SAVED_PAGE = "message/rfc822", "application/mbox", "multipart/related"
TOP = "From: Ada <ada@example.org>\nTo: bob@example.org\nSubject: Plans\nDate: Fri, 1 May 2026 10:00:00 +0200\n"


def read(tmp_path: Path, content: str | bytes, media_type: str = MESSAGE) -> list[Piece | Embedded]:
    path = tmp_path / "file"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(extractor.extract(path, Reading(media_type)))


def kept(items: list[Piece | Embedded]) -> list[str]:
    return [one.text for one in items if isinstance(one, Piece) and not one.dropped and one.kind != "header"]


def dropped(items: list[Piece | Embedded]) -> dict[str, str]:
    return {one.dropped: one.text for one in items if isinstance(one, Piece) and one.dropped}


def embedded(items: list[Piece | Embedded]) -> dict[str, bytes]:
    return {one.name: b"".join(one.chunks) for one in items if isinstance(one, Embedded)}


def mail(text: str = "Hello", html: str = "") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Ada <ada@example.org>", "bob@example.org", "Plans"
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    return message


# --- one message -----------------------------------------------------------------------------------------------


def test_headers_are_one_piece_and_the_subject_is_the_heading(tmp_path: Path) -> None:
    items = read(tmp_path, TOP + "Received: by mx (secret route)\n\nWe meet\non Monday.\n")
    header = items[0]
    assert isinstance(header, Piece)
    assert header.kind == "header"
    assert header.text == "Subject: Plans\nFrom: Ada <ada@example.org>\nTo: bob@example.org\nDate: Fri, 1 May 2026 10:00:00 +0200"
    assert kept(items) == ["We meet\non Monday."]
    assert all(isinstance(one, Piece) and (one.heading, one.locator) == ("Plans", "message=1") for one in items)


def test_plain_text_is_preferred_and_its_html_copy_is_counted_as_one(tmp_path: Path) -> None:
    items = read(tmp_path, mail("We meet on Monday.", "<p>We meet on <b>Monday</b>.</p>").as_bytes())
    assert kept(items) == ["We meet on Monday."]
    assert dropped(items) == {"same text in another form": "We meet on Monday."}


def test_html_is_taken_when_the_plain_text_says_nothing(tmp_path: Path) -> None:
    items = read(tmp_path, mail("Please view in a browser.", f"<h2>News</h2><p>{'A long report. ' * 20}</p>").as_bytes())
    assert kept(items)[0] == "News"
    assert "view in a browser" in dropped(items)["same text in another form"]


def test_an_html_only_body_is_read_below_the_subject(tmp_path: Path) -> None:
    body = '<h2>Agenda</h2><p>Item &eacute;</p><blockquote type="cite"><p>old words</p></blockquote>'
    items = read(tmp_path, TOP + f"Content-Type: text/html; charset=utf-8\n\n{body}")
    assert kept(items) == ["Agenda", "Item é"]
    assert items[1].heading == "Plans > Agenda"  # type: ignore[union-attr]
    assert dropped(items) == {"quoted reply": "old words"}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64", base64.encodebytes("Käse 5 €".encode())),
        ("Content-Type: text/plain; charset=iso-8859-1", "Käse 5 €".encode("cp1252")),  # what Outlook calls Latin-1
        ("Content-Type: text/plain; charset=us-ascii", "Käse 5 €".encode()),
        ("Content-Type: text/plain; charset=no-such-charset", "Käse 5 €".encode("cp1252")),
        ("Content-Type: text/plain; charset=utf-8", "Käse 5 €".encode("cp1252")),
        ("Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable", b"K=C3=A4se 5 =E2=82=AC"),
    ],
)
def test_transfer_encodings_and_wrong_charsets(tmp_path: Path, headers: str, body: bytes) -> None:
    assert kept(read(tmp_path, f"{TOP}{headers}\n\n".encode() + body)) == ["Käse 5 €"]


def test_a_message_saved_as_utf16_and_one_of_apple_mail(tmp_path: Path) -> None:
    text = TOP + "Content-Type: text/plain; charset=utf-8\n\nKäse\n"
    for data in (text.encode("utf-16"), text.encode("utf-16-le"), b"\xef\xbb\xbf" + text.encode()):
        assert kept(read(tmp_path, data)) == ["Käse"]
    encoded = text.encode()
    assert kept(read(tmp_path, b"%d   \n" % len(encoded) + encoded + b"<?xml version='1.0'?><plist/>")) == ["Käse"]


def test_encoded_and_raw_headers_are_readable(tmp_path: Path) -> None:
    items = read(tmp_path, "From: =?utf-8?q?J=C3=BCrgen?= <j@x.org>\nSubject: =?no-such?q?a?= Käse\nTo: =?utf-8?b?!!!?=\n\nHi")
    assert isinstance(items[0], Piece)
    assert "Jürgen <j@x.org>" in items[0].text
    assert "Käse" in items[0].text


def test_the_mail_that_is_answered_and_the_signature_are_dropped(tmp_path: Path) -> None:
    text = "Yes, Monday.\n\nOn 1 May 2026, Bob wrote:\n> Which day?\n>\n> Bob\n\n-- \nAda Lovelace\n+44 1\n"
    items = read(tmp_path, f"{TOP}\n{text}")
    assert kept(items) == ["Yes, Monday."]
    assert dropped(items)["quoted reply"].startswith("On 1 May 2026, Bob wrote:\n> Which day?")
    assert dropped(items)["signature"].startswith("-- \nAda")


@pytest.mark.parametrize(
    "text",
    [
        "Bob wrote:\n> Which day?\nMonday.\n> Which room?\nThe blue one.",  # answered point by point
        "> a quote without a source\nand a comment",
        "Quote of the day\n\n> Be brief.",
    ],
)
def test_quotes_that_belong_to_the_text_stay(tmp_path: Path, text: str) -> None:
    assert not dropped(read(tmp_path, f"{TOP}\n{text}"))


def test_flowed_lines_are_put_together(tmp_path: Path) -> None:
    items = read(tmp_path, TOP + "Content-Type: text/plain; format=flowed\n\nOne \ntwo \nthree.\nFour\n")
    assert kept(items) == ["One two three.\nFour"]


def test_encrypted_and_signed_bodies_say_so(tmp_path: Path) -> None:
    armour = "-----BEGIN PGP MESSAGE-----\n\nhQEMA\n-----END PGP MESSAGE-----\n"
    items = read(tmp_path, f"{TOP}\n{armour}")
    assert (kept(items), list(dropped(items))) == ([], ["encrypted body"])
    sealed = TOP + 'Content-Type: multipart/encrypted; boundary="b"\n\n--b\nContent-Type: application/pgp-encrypted\n\nVersion: 1\n--b--\n'
    assert dropped(read(tmp_path, sealed)) == {"encrypted body": ""}
    assert dropped(read(tmp_path, TOP + "Content-Type: application/pkcs7-mime; smime-type=enveloped-data\n\nMIIB")) == {"encrypted body": ""}
    signed = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nTrue words.\n-----BEGIN PGP SIGNATURE-----\n\niQ\n-----END PGP SIGNATURE-----\n"
    assert kept(read(tmp_path, f"{TOP}\n{signed}")) == ["True words."]


# --- attachments -----------------------------------------------------------------------------------------------


def test_attachments_are_handed_back_and_small_inline_pictures_are_not(tmp_path: Path) -> None:
    message = mail("See the file.", '<p>See the file.</p><img src="cid:logo">')
    message.get_payload()[1].add_related(b"\x89PNG" * 10, "image", "png", cid="<logo>")  # type: ignore[index,union-attr]
    message.add_attachment(b"%PDF-1.7 ...", maintype="application", subtype="pdf", filename="Übersicht 1.pdf")
    message.add_attachment("a,b\n1,2\n", subtype="csv", filename="../../etc/rows.csv")
    message.add_attachment(b"\x89PNG" * 10_000, maintype="image", subtype="png")
    items = read(tmp_path, message.as_bytes())
    assert kept(items) == ["See the file."]
    assert embedded(items) == {"Übersicht 1.pdf": b"%PDF-1.7 ...", "../../etc/rows.csv": b"a,b\n1,2\n", "attachment-3.png": b"\x89PNG" * 10_000}
    assert dropped(items)["small inline picture"] == ""


def test_messages_inside_messages_are_mails_of_their_own(tmp_path: Path) -> None:
    outer = mail("See below.")
    outer.add_attachment(mail("Inner words."))
    items = read(tmp_path, outer.as_bytes())
    ((name, data),) = embedded(items).items()
    assert name.endswith(".eml")
    assert kept(read(tmp_path, data)) == ["Inner words."]
    digest = f'{TOP}Content-Type: multipart/digest; boundary="b"\n\n--b\n\n{TOP}\nFirst.\n--b\n\n{TOP}\nSecond.\n--b--\n'
    assert [kept(read(tmp_path, data)) for data in embedded(read(tmp_path, digest)).values()] == [["First."], ["Second."]]


def test_a_delivery_report_is_counted_and_not_kept(tmp_path: Path) -> None:
    text = f'{TOP}Content-Type: multipart/report; boundary="b"\n\n--b\n\nNo such user.\n--b\nContent-Type: message/delivery-status\n\nStatus: 5.1.1\n--b--\n'
    items = read(tmp_path, text)
    assert kept(items) == ["No such user."]
    assert "5.1.1" in dropped(items)["delivery report"]


@pytest.mark.parametrize("depth", [60, 200, 3000])
def test_deeply_nested_parts_are_refused_in_bounded_time(tmp_path: Path, depth: int) -> None:
    opening = "".join(f'Content-Type: multipart/mixed; boundary="b{level}"\n\n--b{level}\n' for level in range(depth))
    with pytest.raises(ExtractError, match="nested") as caught:
        read(tmp_path, f"{TOP}{opening}\n\ntreasure\n")
    assert caught.value.refused


@pytest.mark.parametrize("content", [b"", b"just words", b"\0\1\2", b"From: a\nContent-Type: multipart/mixed\n\nno boundary", b"Content-Type: ;;;=\n\nx"])
def test_malformed_messages_are_read_or_fail_as_extraction_errors(tmp_path: Path, content: bytes) -> None:
    for media_type in (MESSAGE, MAILBOX, SAVED_PAGE, "application/vnd.ms-outlook"):
        try:
            read(tmp_path, content, media_type)
        except ExtractError:
            continue


def test_a_header_with_ten_thousand_recipients_is_read_at_once(tmp_path: Path) -> None:
    people = ", ".join(f"User {number} <user{number}@example.org>" for number in range(10_000))
    assert kept(read(tmp_path, f"From: a@example.org\nTo: {people}\n\nHi")) == ["Hi"]  # 5.6 s with the default policy


# --- mailboxes and saved pages ---------------------------------------------------------------------------------


def test_a_mailbox_is_read_message_by_message_with_its_escapes(tmp_path: Path) -> None:
    envelope = "From ada@example.org Fri May  1 10:00:00 2026\n"
    with_file = mail("Third.")
    with_file.add_attachment(b"abc", maintype="application", subtype="pdf", filename="a.pdf")
    text = f"{envelope}{TOP}\nFirst.\n\n>From here it goes on.\n\nFrom here too, it seems.\n\n{envelope}{TOP}\n>>From\n>>From twice\n\n{envelope}{with_file.as_string()}"
    items = read(tmp_path, text, MAILBOX)
    assert kept(items) == ["First.", "From here it goes on.", "From here too, it seems.", ">>From\n>From twice", "Third."]
    assert [one.locator for one in items if isinstance(one, Piece) and one.kind == "header"] == ["message=1", "message=2", "message=3"]
    assert list(embedded(items)) == ["message-3/a.pdf"]


def test_a_broken_message_costs_a_mailbox_only_that_message(tmp_path: Path) -> None:
    envelope = "From a Fri May  1 10:00:00 2026\n"
    deep = "".join(f'Content-Type: multipart/mixed; boundary="b{level}"\n\n--b{level}\n' for level in range(100))
    items = read(tmp_path, f"{envelope}{TOP}\nFirst.\n\n{envelope}{TOP}{deep}\nlost\n\n{envelope}{TOP}\nLast.\n", MAILBOX)
    assert kept(items) == ["First.", "Last."]
    assert [one.locator for one in items if isinstance(one, Piece) and "cannot be read" in one.dropped] == ["message=2"]


def test_a_mailbox_is_never_held_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    message = ("From a Fri May  1 10:00:00 2026\n" + TOP + "\n" + "A line of text that says little.\n" * 2000 + "\n").encode()
    path = tmp_path / "big.mbox"
    with path.open("wb") as file:
        for _ in range(200):
            file.write(message)
    tracemalloc.start()
    count = sum(1 for one in extractor.extract(path, Reading(MAILBOX)) if isinstance(one, Piece) and one.kind == "header")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 200
    assert peak < path.stat().st_size / 4


def test_a_saved_web_page_gives_its_main_text(tmp_path: Path) -> None:
    text = (
        'From: <Saved by Blink>\nSnapshot-Content-Location: https://example.org/\nSubject: Page\nMIME-Version: 1.0\nContent-Type: multipart/related; boundary="b"\n\n'
        "--b\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n<nav>Menu</nav><h1>Caf=C3=A9</h1><p>Open daily.</p>\n"
        "--b\nContent-Type: text/css\n\np { color: red }\n--b\nContent-Type: text/html\n\n<p>advert</p>\n--b--\n"
    )
    items = read(tmp_path, text, SAVED_PAGE)
    assert kept(items) == ["Café", "Open daily."]
    assert dropped(items) == {"navigation": "Menu", "frame of the page": "advert"}
    assert extractor.accepts(text.encode(), "page.txt") == SAVED_PAGE


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (TOP.encode() + b"\nx", MESSAGE),
        (TOP.encode("utf-16"), MESSAGE),
        (b"From a@b.org Fri May  1 10:00:00 2026\nSubject: x\n\n", MAILBOX),
        (b"From here to there it is far.\n", ""),
        (b"---\ntitle: x\ndate: 2026\n---\n", ""),
        (b"To: do\nSubject: unclear\n\nA note.", ""),
        (b"import os\n", ""),
        (b"", ""),
    ],
)
def test_mail_is_recognised_by_its_headers(head: bytes, media_type: str) -> None:
    assert extractor.accepts(head, "whatever") == media_type


# --- outlook ---------------------------------------------------------------------------------------------------


OUTLOOK = "application/vnd.ms-outlook"


def test_outlook_messages_give_headers_body_and_attachments(tmp_path: Path) -> None:
    made = outlook.message(
        {outlook.SUBJECT: "Pläne", outlook.BODY: "We meet on Monday.\r\n\r\n-- \r\nAda", outlook.HEADERS: "From: =?utf-8?q?J=C3=BCrgen?= <j@x.org>\r\nTo: b@x.org\r\n"},
        {outlook.FILE_NAME: "rows.csv", outlook.DATA: b"a,b\n1,2\n", outlook.MIME: "text/csv"},
        {outlook.FILE_NAME: "logo.png", outlook.DATA: b"\x89PNG", outlook.MIME: "image/png", outlook.CONTENT_ID: "logo"},
        {outlook.FILE_NAME: "inner.msg"},
    )
    items = read(tmp_path, made, OUTLOOK)
    assert isinstance(items[0], Piece)
    assert items[0].text == "Subject: Pläne\nFrom: Jürgen <j@x.org>\nTo: b@x.org"
    assert kept(items) == ["We meet on Monday."]
    assert dropped(items) == {"signature": "-- \nAda", "small inline picture": ""}
    assert embedded(items) == {"rows.csv": b"a,b\n1,2\n", "inner.msg": b""}
    assert [one.note != "" for one in items if isinstance(one, Embedded)] == [False, True]


def test_outlook_bodies_in_html_and_in_compressed_rtf(tmp_path: Path) -> None:
    from compressed_rtf import compress

    html = outlook.message({outlook.SUBJECT: "News", outlook.HTML: "<p>Café</p>".encode()})
    assert kept(read(tmp_path, html, OUTLOOK)) == ["Café"]
    rtf = outlook.message({outlook.SUBJECT: "News", outlook.RTF: compress(rb"{\rtf1\ansi One.\par Two \'e9.}")})
    assert kept(read(tmp_path, rtf, OUTLOOK)) == ["One.", "Two é."]
    bomb = outlook.message({outlook.SUBJECT: "News", outlook.RTF: b"\x10\0\0\0\xff\xff\xff\xff" + b"LZFu" + b"\0" * 8})
    with pytest.raises(ExtractError):
        read(tmp_path, bomb, OUTLOOK)


def test_a_damaged_outlook_message_is_an_extraction_error(tmp_path: Path) -> None:
    made = outlook.message({outlook.SUBJECT: "News", outlook.BODY: "Words"})
    for data in (made[:600], made[:1100], made.replace(b"\xd0\xcf", b"\0\0", 1)):
        with pytest.raises(ExtractError):
            read(tmp_path, data, OUTLOOK)
