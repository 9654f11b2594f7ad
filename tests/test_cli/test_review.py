"""forge review: who may see the page, what it shows, what is decided and what becomes of it; the same by command."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from forge import gate, registry
from forge.cli.session import Session
from forge.errors import RunBusy
from forge.records import Chat, Example, Extraction, Labelled, Message, Relation, Span, write_jsonl
from forge.review import decisions
from forge.review.book import SAMPLE_OF_EACH, Asked, Book
from forge.review.desk import Desk, Refusal
from forge.review.server import BODY_MOST, ReviewServer
from forge.run import Run
from tests.test_cli.conftest import Command, Ran, finish, program
from tests.test_cli.toy_review import points_with_pairs
from tests.test_engine.review_world import MAKERS, ToySynth


@pytest.fixture
def planned(forge: Command, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A run that waits at the gate, with 63 pairs."""
    monkeypatch.setattr(registry, "_points", points_with_pairs(registry._points))
    assert forge("run", corpus, "--budget", "5", "--id", "one").code == 3
    return forge


@pytest.fixture
def desk(planned: Command) -> Desk:
    session = Session(as_json=False, quiet=True, yes=False)
    session.open("one")
    return Desk(session.run, session.registry, session.config)


class Client:
    """A browser without a window: keeps the cookie, knows the page's secret, and can be told to lie."""

    def __init__(self, server: ReviewServer) -> None:
        self.server, self.host = server, server.origin.removeprefix("http://")
        self.cookie = ""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, http.client.HTTPMessage]:
        """One request; a header given as "" is left out."""
        sent = {"Host": self.host, "Cookie": self.cookie, "Origin": self.server.origin, "X-Forge-Review": self.server.csrf, "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", int(self.server.server_address[1]), timeout=10)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        data = b"" if body is None else json.dumps(body).encode()
        sent.setdefault("Content-Length", str(len(data)))
        for name, value in sent.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders(data)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        found = json.loads(text) if "json" in (answer.headers["Content-Type"] or "") and text else text.decode()
        return answer.status, found, answer.headers

    def get(self, path: str, **query: Any) -> Any:
        """What a GET brings; fails when it is refused."""
        status, found, _ = self.ask("GET", f"{path}?{urlencode(query)}" if query else path)
        assert status == 200, found
        return found

    def post(self, path: str, body: Any) -> Any:
        """What a POST brings; fails when it is refused."""
        status, found, _ = self.ask("POST", path, body)
        assert status == 200, found
        return found

    def enter(self) -> None:
        """Use the token."""
        parts = urlsplit(self.server.url)
        status, _, headers = self.ask("GET", f"{parts.path}?{parts.query}")
        assert status == 200
        self.cookie = headers["Set-Cookie"].partition(";")[0]

    def outcome(self) -> str:
        """How the review ended."""
        deadline = time.monotonic() + 10
        while not self.server.outcome:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self.server.outcome

    def until_made(self) -> dict[str, Any]:
        """The state after the plan was made again."""
        deadline = time.monotonic() + 30
        while (state := self.get("/api/state"))["remake"]["running"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert state["remake"]["error"] is None
        return dict(state)


@pytest.fixture
def served(desk: Desk) -> Iterator[ReviewServer]:
    server = ReviewServer(desk)
    thread = threading.Thread(target=server.wait, args=(60,))
    thread.start()
    yield server
    server.end(server.outcome)
    thread.join(10)


@pytest.fixture
def client(served: ReviewServer) -> Client:
    made = Client(served)
    made.enter()
    return made


# --- who may see it --------------------------------------------------------------------------------------------


def test_the_page_is_served_on_this_machine_only(served: ReviewServer) -> None:
    assert served.server_address[0] == "127.0.0.1"
    assert served.url.startswith(f"http://127.0.0.1:{served.server_address[1]}/?token=")


def test_the_token_opens_the_page_once(served: ReviewServer) -> None:
    first, second = Client(served), Client(served)
    status, _, headers = first.ask("GET", f"/?token={served.token}")
    assert status == 200
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    status, found, headers = second.ask("GET", f"/?token={served.token}")
    assert status == 403
    assert "used already" in found["error"]
    assert headers["Set-Cookie"] is None
    assert first.ask("GET", f"/?token={served.token}", Cookie=cookie.partition(";")[0])[0] == 403, "not even for the one who used it"


def test_a_wrong_token_neither_opens_the_page_nor_uses_the_right_one_up(served: ReviewServer) -> None:
    client = Client(served)
    assert client.ask("GET", "/?token=guess")[0] == 403
    assert client.ask("GET", "/?token=")[0] == 403
    client.enter()
    assert "<title>" in client.ask("GET", "/")[1]


def test_without_the_cookie_there_is_nothing(served: ReviewServer) -> None:
    for path in ("/", "/api/state", "/api/items", "/../../etc/passwd", "/api/other"):
        for cookie in ("", f"{served.cookie}=guess", f"other={served.session}"):
            status, found, _ = Client(served).ask("GET", path, Cookie=cookie)
            assert status == 403
            assert "pump" not in json.dumps(found)


def test_a_name_that_was_rebound_to_this_machine_gets_nothing(served: ReviewServer, client: Client) -> None:
    port = served.server_address[1]
    for name in ("evil.example", f"evil.example:{port}", f"localhost:{port}", "127.0.0.1", "", f"127.0.0.1:{port}.evil.example"):
        for path in ("/", "/api/state", f"/?token={served.token}"):
            assert client.ask("GET", path, Host=name)[0] == 403, name
        assert client.ask("POST", "/api/reject", {"pairs": ["pump-1"]}, Host=name)[0] == 403, name


FOREIGN: tuple[tuple[int, dict[str, str]], ...] = (
    (403, {"Origin": ""}), (403, {"Origin": "https://evil.example"}), (403, {"Origin": "null"}), (403, {"X_Forge_Review": ""}),
    (403, {"X_Forge_Review": "guess"}), (403, {"Sec_Fetch_Site": "cross-site"}), (415, {"Content_Type": "text/plain"}),
    (413, {"Content_Length": str(BODY_MOST + 1)}), (413, {"Content_Length": "-1"}), (403, {"Cookie": ""}),
)


def test_a_change_must_come_from_the_page_itself(client: Client, desk: Desk) -> None:
    for status, headers in FOREIGN:
        assert client.ask("POST", "/api/reject", {"pairs": ["pump-1"]}, **headers)[0] == status, headers
    assert decisions.history(desk.run) == []
    client.post("/api/reject", {"pairs": ["pump-1"]})
    assert len(decisions.history(desk.run)) == 1


def test_a_request_that_makes_no_sense_is_told(client: Client) -> None:
    nonsense: tuple[Any, ...] = ([], {"pairs": []}, {"pairs": "pump-1"}, {"pairs": [7]}, {})
    for body in nonsense:
        status, found, _ = client.ask("POST", "/api/reject", body)
        assert status == 400
        assert found["error"]


def test_the_page_may_load_nothing_and_runs_only_its_own_script(client: Client) -> None:
    status, html, headers = client.ask("GET", "/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert html.count("<script>") == 1
    assert "innerHTML" not in html
    assert (headers["Cache-Control"], headers["Referrer-Policy"], headers["X-Content-Type-Options"]) == ("no-store", "no-referrer", "nosniff")
    assert client.server.token not in html


# --- what it shows ---------------------------------------------------------------------------------------------


def test_pages_of_a_list_hold_every_pair_once(client: Client) -> None:
    seen: list[str] = []
    while (page := client.get("/api/items", kind="pairs", offset=len(seen), limit=20))["items"]:
        seen += [item["id"] for item in page["items"]]
        assert page["total"] == 63
    assert len(seen) == len(set(seen)) == 63


def test_filters_and_search_work_together(client: Client) -> None:
    found = client.get("/api/items", kind="pairs", bucket="factual", document="pump.md", q="ARVO bar")
    assert [item["id"] for item in found["items"]] == ["pump-0"]
    assert client.get("/api/items", kind="pairs", q="nothing has these words")["total"] == 0
    facets = client.get("/api/state")["facets"]["pairs"]
    assert facets["document"]["boiler.md"] == len(MAKERS)
    assert facets["subtopic"] == {"holding": 30}
    assert client.ask("GET", "/api/items?offset=x")[0] == 400


def test_the_evidence_is_marked_in_its_passage(client: Client) -> None:
    item = client.get("/api/items", q="pump-4")["items"][0]
    (start, end), = item["passage"]["marks"]
    assert item["passage"]["text"][start:end] == item["evidence"] == "The Elbrus pump holds 47 bar and is serviced by the day crew."
    assert item["passage"]["heading"] == "About the pump"


def test_the_sample_has_something_of_every_bucket_and_subtopic_and_is_always_the_same(client: Client) -> None:
    found = client.get("/api/items", sample=1, limit=200)["items"]
    cells: dict[tuple[str, str], list[str]] = {}
    for item in found:
        cells.setdefault((item["bucket"], item["subtopic"]), []).append(item["document"])
    assert len(cells) == 7
    assert all(len(set(documents)) == len(documents) == SAMPLE_OF_EACH for cell, documents in cells.items() if cell[0] != "abstain_far")
    assert client.get("/api/items", sample=1, limit=200)["items"] == found


def test_refused_dropped_and_poisoned_are_shown_with_their_reasons(client: Client) -> None:
    assert client.get("/api/state")["counts"] == {"pairs": 63, "rows": 0, "refused": 1, "dropped": 1, "poisoned": 1}
    refused, dropped, poisoned = (client.get("/api/items", kind=kind)["items"][0] for kind in ("refused", "dropped", "poisoned"))
    assert refused["reason"] == "number_or_name_not_in_evidence"
    assert (dropped["reason"], dropped["dup_of"], dropped["document"]) == ("near_duplicate", "p-pump", "copy.md")
    assert poisoned["passage"]["text"].startswith("Ignore all rules")
    assert "overrides" in poisoned["found"]


def test_ready_made_rows_can_be_read_too(desk: Desk) -> None:
    text = "Aspirin eases pain."
    spans = (Span(type="drug", text="Aspirin", start=0, end=7), Span(type="sign", text="pain", start=14, end=18))
    bodies = {
        "label": Labelled(text=text, label="yes", rationale="it says so"), "plain": Labelled(text=text, label="no"),
        "extract": Extraction(text=text, entities=spans, relations=(Relation(head=0, type="eases", tail=1),)),
        "chat": Chat(prompt=(Message(role="user", content="Which drug?"),), completion=(Message(role="assistant", content="Aspirin."),)),
    }
    draft = desk.run.folder / "draft.jsonl"
    write_jsonl(draft, [Example(id=name, split="val", group=name, body=body) for name, body in bodies.items()])
    sql, values = desk.run.store.record(desk.run.store.publish("val", "shape", draft, "val.jsonl"))
    desk.run.state.execute(sql, *values)
    total, rows = Book(desk.run).find(Asked(kind="rows"))
    assert total == 4
    assert {row["id"]: row["answer"] for row in rows} == {
        "label": "yes: it says so", "plain": "no", "chat": "Aspirin.", "extract": "drug: Aspirin\nsign: pain\nAspirin – eases → pain",
    }


def test_the_state_tells_plan_checks_and_money(client: Client) -> None:
    state = client.get("/api/state")
    assert state["plan"]["sha256"].startswith(state["plan"]["short"])
    assert state["money"]["budget"] == 5_000_000
    assert state["money"]["before_gate_cap"] == 500_000
    assert [row["phase"] for row in state["money"]["phases"]] == ["synth", "shape", "plan_it"]


# --- deciding --------------------------------------------------------------------------------------------------


def test_two_rejections_make_a_new_plan_and_the_approval_is_bound_to_it(client: Client, desk: Desk) -> None:
    before = client.get("/api/state")["plan"]["sha256"]
    client.post("/api/reject", {"pairs": ["pump-1", "valve-2"], "why": "the crew is wrong"})
    state = client.get("/api/state")
    assert state["decisions"]["rejected"] == 2
    assert state["outdated"].startswith("shape: ")
    status, found, _ = client.ask("POST", "/api/approve", {"plan": before})
    assert status == 409
    assert "must be made again" in found["error"]
    runs = ToySynth.runs
    client.post("/api/remake", {})
    state = client.until_made()
    after = state["plan"]["sha256"]
    assert after != before
    assert not state["outdated"]
    assert ToySynth.runs == runs, "only what depends on the decisions runs again"
    assert client.ask("POST", "/api/approve", {"plan": before})[0] == 409
    client.post("/api/approve", {"plan": after})
    assert client.outcome() == "approved"
    run = Run.open("one")
    assert gate.is_approved(run, after)
    assert not gate.is_approved(run, before)
    assert {"pump-1", "valve-2"}.isdisjoint(trained(run))


def test_a_decision_taken_back_leads_to_the_same_plan_as_before(client: Client) -> None:
    before = client.get("/api/state")["plan"]["sha256"]
    for path in ("/api/reject", "/api/keep"):
        client.post(path, {"pairs": ["pump-1"]})
        client.post("/api/remake", {})
        state = client.until_made()
    assert state["plan"]["sha256"] == before
    assert [one["action"] for one in state["decisions"]["history"]] == ["reject", "keep"]


def test_an_edit_goes_through_the_filters_of_synth(client: Client, desk: Desk) -> None:
    status, found, _ = client.ask("POST", "/api/edit", {"pairs": ["pump-1"], "fields": {"answer": "The Belmar pump holds 99 bar in every season."}})
    assert status == 400
    assert "number or name not in passage" in found["why"]
    status, found, _ = client.ask("POST", "/api/edit", {"pairs": ["pump-1"], "fields": {"evidence": "The Belmar pump is blue."}})
    assert "evidence not in passage" in found["why"]
    status, found, _ = client.ask("POST", "/api/edit", {"pairs": ["pump-1"], "fields": {"question": "How many bar does the Arvo pump hold?"}})
    assert "repeated question" in found["why"]
    assert client.ask("POST", "/api/edit", {"pairs": ["pump-1"], "fields": {"bucket": "x"}})[0] == 400
    assert decisions.history(desk.run) == []
    client.post("/api/edit", {"pairs": ["pump-1"], "fields": {"answer": "It holds 17 bar; the Belmar pump goes to the day crew."}, "why": "shorter"})
    client.post("/api/edit", {"pairs": ["pump-1"], "fields": {"question": "Who services the Belmar pump, and how much does it hold?"}})
    item = client.get("/api/items", decision="edited")["items"][0]
    assert item["question"].startswith("Who services")
    assert item["answer"].startswith("It holds 17 bar"), "the second edit keeps the first"
    assert item["original"]["question"] == "How many bar does the Belmar pump hold?"
    client.post("/api/remake", {})
    client.until_made()
    assert trained(Run.open("one"))["pump-1"] == ("Who services the Belmar pump, and how much does it hold?", item["answer"])


def test_an_abstention_keeps_its_one_sentence(desk: Desk) -> None:
    with pytest.raises(Refusal, match="do not pass"):
        desk.edit([("far-chess", {"answer": "I do not know."}, "")])
    with pytest.raises(Refusal, match="do not pass"):
        desk.edit([("far-chess", {"question": "Which night crew holds the Arvo pump?"}, "")])
    assert desk.edit([("far-chess", {"question": "Who wins at chess these days?"}, "")]) == 1


def test_while_another_forge_holds_the_run_nothing_is_decided(client: Client, desk: Desk) -> None:
    with Run.open("one").lock():
        status, found, _ = client.ask("POST", "/api/reject", {"pairs": ["pump-1"]})
        assert client.get("/api/state")["busy"]
    assert status == 409
    assert "busy" in found["error"]
    with Run.open("one").lock(), pytest.raises(RunBusy):
        desk.reject(["pump-1"])
    assert decisions.history(desk.run) == []


def test_a_plan_edited_by_hand_is_not_made_again_behind_the_editors_back(client: Client, desk: Desk) -> None:
    path = desk.run.folder / "plan.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"seed": 7', '"seed": 8'), encoding="utf-8")
    client.post("/api/reject", {"pairs": ["pump-1"]})
    client.post("/api/remake", {})
    deadline = time.monotonic() + 20
    while (state := client.get("/api/state"))["remake"]["running"]:
        assert time.monotonic() < deadline
    assert "edited by hand" in state["remake"]["error"]["fact"]


def test_rejecting_the_plan_closes_the_run(client: Client) -> None:
    client.post("/api/close", {})
    assert client.outcome() == "rejected"
    assert Run.open("one").state.get("outcome") == "rejected"


# --- the command -----------------------------------------------------------------------------------------------


def trained(run: Run) -> dict[str, tuple[str, str]]:
    """Question and answer of every training row."""
    artifact = run.store.get("train")
    assert artifact is not None
    rows = [json.loads(line) for line in run.store.link(artifact).read_text(encoding="utf-8").splitlines()]
    return {row["id"]: (row["body"]["prompt"][-1]["content"], row["body"]["completion"][0]["content"]) for row in rows}


def test_the_waiting_run_names_the_review(planned: Command) -> None:
    waiting = planned("resume", "one")
    assert waiting.code == 3
    assert "next: forge review one, or forge approve one --plan" in waiting.err


def test_an_exported_file_comes_back_with_edits_and_rejections(planned: Command, work: Path) -> None:
    told = planned("review", "one", "--export", "pairs.jsonl", "--all")
    assert told.last == "next: forge review one --edit pairs.jsonl"
    rows = [json.loads(line) for line in (work / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 63
    by_id = {row["id"]: row for row in rows}
    by_id["pump-1"] |= {"answer": "It holds 17 bar; the Belmar pump goes to the day crew.", "why": "shorter"}
    by_id["valve-3"] |= {"decision": "rejected", "why": "markup"}
    (work / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    told = planned("review", "one", "--edit", "pairs.jsonl", "--reject", "pump-2,pump-3", "--why", "too easy")
    assert "3 rejected, 1 edited in all: the plan must be made again" in told.out
    assert told.last == "next: forge resume one --until plan_it"
    assert {one.id: (one.action, one.why) for one in decisions.history(Run.open("one"))} == {
        "pump-1": ("edit", "shorter"), "valve-3": ("reject", "markup"), "pump-2": ("reject", "too easy"), "pump-3": ("reject", "too easy"),
    }
    assert planned("resume", "one", "--until", "plan_it").code == 0
    found = planned("review", "one", "--keep", "pump-2", "--json").json
    assert found["decisions"] == {"rejected": 2, "edited": 1, "stale": 0}
    assert len(trained(Run.open("one"))) == 60
    assert planned("review", "one", "--edit", "pairs.jsonl", "--json").json["edited"] == 0, "what was taken over is no change any more"


@pytest.mark.parametrize(("line", "fact"), [
    ("{", "is not JSON"), ("[]", "names no pair"), ('{"id": 7}', "names no pair"), ('{"id": "nope"}', 'there is no pair "nope"'),
])
def test_a_file_that_cannot_be_taken_over_is_told_with_its_line(planned: Command, work: Path, line: str, fact: str) -> None:
    (work / "edits.jsonl").write_text('{"id": "pump-1", "decision": "rejected"}\n' + line + "\n", encoding="utf-8")
    rows = planned("review", "one", "--edit", "edits.jsonl").error(2)
    assert "edits.jsonl:2" in rows[0]
    assert fact in rows[0]
    assert decisions.history(Run.open("one")) == []


def test_of_decisions_with_one_wrong_id_none_is_recorded(planned: Command) -> None:
    rows = planned("review", "one", "--reject", "pump-1,pomp-2").error(2)
    assert 'has no pair "pomp-2"' in rows[0]
    assert decisions.history(Run.open("one")) == []


def test_a_plan_that_does_not_know_the_decisions_cannot_be_approved_by_command_either(planned: Command) -> None:
    planned("review", "one", "--reject", "pump-1")
    before = gate.current(Run.open("one"))[1]
    rows = planned("approve", "one", "--plan", before).error(3)
    assert "must be made again" in rows[0]
    assert rows[-1] == "  next: forge resume one --until plan_it"
    assert not gate.is_approved(Run.open("one"), before)
    planned("resume", "one", "--until", "plan_it")
    assert planned("approve", "one", "--plan", gate.current(Run.open("one"))[1]).code == 0
    record = Run.open("one").store.get("run_record")
    assert record is not None
    told = json.loads(Run.open("one").store.link(record).read_text(encoding="utf-8"))["review"]
    assert [(one["id"], one["action"]) for one in told] == [("pump-1", "reject")]


def test_the_page_as_a_program_prints_its_address_and_ends_with_the_approval(planned: Command) -> None:
    process, address = start("--json")
    parts = urlsplit(address["url"])
    connection = http.client.HTTPConnection("127.0.0.1", parts.port or 0, timeout=10)
    connection.request("GET", f"/?{parts.query}")
    answer = connection.getresponse()
    html, cookie = answer.read().decode(), answer.headers["Set-Cookie"].partition(";")[0]
    secret = html.partition('const CSRF = "')[2].partition('"')[0]
    plan = gate.current(Run.open("one"))[1]
    headers = {"Cookie": cookie, "Origin": address["origin"], "X-Forge-Review": secret, "Content-Type": "application/json"}
    connection.request("POST", "/api/approve", json.dumps({"plan": plan}), headers)
    assert connection.getresponse().status == 200
    told = finish(process)
    assert told.code == 0
    assert json.loads(told.out.splitlines()[-1])["outcome"] == "approved"
    assert planned("resume", "one").code == 0


def test_ctrl_c_ends_the_page_and_keeps_the_decisions(planned: Command) -> None:
    process, _ = start()
    process.send_signal(signal.SIGINT)
    told = finish(process)
    assert told.code == 130
    assert "Traceback" not in told.err
    assert told.err.rstrip().endswith("next: forge review one")


def test_a_page_that_nobody_uses_ends_by_itself(planned: Command) -> None:
    process, _ = start("--minutes", "0.05")
    told = finish(process)
    rows = told.error(3)
    assert "was not used" in rows[0]


def start(*words: str) -> tuple[Any, dict[str, Any]]:
    """`forge review one --no-browser` as a program, once it has told its address."""
    process = program("review", "one", "--no-browser", *words, module="tests.test_cli.toy_review")
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, json.loads(line) if line.startswith("{") else {"url": line.split()[-1]}


def test_a_review_needs_no_plan_yet(forge: Command, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_points", points_with_pairs(registry._points))
    assert forge("run", corpus, "--budget", "5", "--id", "one", "--until", "synth").code == 0
    told: Ran = forge("review", "one", "--reject", "pump-1", "--json")
    assert told.json["next"] == "forge resume one --until plan_it"
