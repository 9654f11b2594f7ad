"""An EC2 for tests: moto's answers, real machines behind them (ec2_hosts.py), and what moto does not know.

Added to moto 5.2: ClientToken (the same request once; IdempotentParameterMismatch, IdempotentInstanceTerminated), machines that
end themselves, groups that cannot go while a machine is in them, prices, spot prices, quotas, image parameters, and faults:

    lost       the call is done, its answer is cut off         capacity   InsufficientInstanceCapacity, in `zone` only if given
    throttle   RequestLimitExceeded                            error      503 InternalError
    denied     UnauthorizedOperation                           hidden     DescribeInstances does not list anything yet
    dead       IdempotentInstanceTerminated

Nothing here is ever reached through AWS's names: clients are given `environment()` with the endpoint and false keys.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from forge.config import load_data
from tests.servers.ec2_hosts import Host, end_all, needs_hosts

ACCOUNT = "123456789012"
IMAGES = {"deeplearning": "ami-12c6146b", "canonical": "ami-1e749f67"}
CPU_PRICES = {"c5.large": 0.085, "c5.xlarge": 0.17, "c5a.xlarge": 0.154, "m5.large": 0.096}
SPOT_SHARE = Fraction(2, 5)
ERRORS = {
    "capacity": ("InsufficientInstanceCapacity", 500), "throttle": ("RequestLimitExceeded", 503), "error": ("InternalError", 503),
    "denied": ("UnauthorizedOperation", 403), "dead": ("IdempotentInstanceTerminated", 400), "quota": ("VcpuLimitExceeded", 400),
    "expired": ("ExpiredToken", 400),
}
XML, NAMESPACE = [("Content-Type", "text/xml")], "http://ec2.amazonaws.com/doc/2016-11-15/"
REGIONS = ("us-east-1", "eu-west-1", "ap-south-1")
Answer = tuple[int, list[tuple[str, str]], bytes]


@dataclass
class Fault:
    """One kind of trouble for one action, `times` times; zone: only for requests that name its subnet."""

    action: str
    kind: str
    times: int = 1
    zone: str = ""


@dataclass
class Machine:
    """One instance as the emulator knows it."""

    id: str
    region: str
    behaviour: str
    host: Host | None
    state: Any

    @property
    def up(self) -> bool:
        """It bills."""
        return bool(self.state.state not in ("terminated", "shutting-down"))


@dataclass
class Cloud:
    """The emulated account. calls: "ec2:RunInstances" and so on, as they came; boots: False for instances without machines.

    deny: actions that nobody may do, DryRun neither. asked: the last RunInstances.
    """

    folder: Path
    minute: float = 60.0
    boots: bool = True
    endpoint: str = ""
    quota: float = 64.0
    machines: list[Machine] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    answers: dict[tuple[str, str, str], tuple[str, Answer, str]] = field(default_factory=dict)
    deny: set[str] = field(default_factory=set)
    asked: dict[str, str] = field(default_factory=dict)
    inner: Any = None
    lock: Any = field(default_factory=threading.RLock)

    def environment(self) -> dict[str, str]:
        """What a process needs to talk to this account and to no other."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": "AKIAFALSEFALSEFALSE1", "AWS_SECRET_ACCESS_KEY": "false",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_MAX_ATTEMPTS": "5",
        }

    def fault(self, action: str, kind: str, times: int = 1, zone: str = "") -> None:
        """Queue a fault; times=-1: until forgive()."""
        self.faults.append(Fault(action, kind, times, zone))

    def forgive(self) -> None:
        """No more faults."""
        self.faults.clear()

    def up(self) -> list[Machine]:
        """The instances that bill."""
        return [machine for machine in self.machines if machine.up]

    def left(self, region: str = "us-east-1") -> dict[str, int]:
        """What is left of instances, keys, groups and volumes."""
        backend = _backend(region)
        groups = [one for groups in backend.groups.values() for one in groups.values() if one.name != "default"]
        return {"instances": len(self.up()), "keys": len(backend.key_pairs), "groups": len(groups), "volumes": len(backend.volumes)}

    def bill(self) -> int:
        """What AWS would charge for every instance there ever was, in micro-dollars: per second, at least 60, each rounded up."""
        return sum(self.bill_of(machine) for machine in self.machines)

    def bill_of(self, machine: Machine, disk_gib: int = 200) -> int:
        """One instance: itself, its disk and its address."""
        seconds = max(60, math.ceil(_end_of(machine.state) - machine.state.launch_time.replace(tzinfo=UTC).timestamp()))
        hourly: Fraction = Fraction(str(price_of(machine.state.instance_type))) * (SPOT_SHARE if machine.state.lifecycle == "spot" else 1)
        hourly += Fraction(disk_gib) * Fraction("0.08") / 730 + Fraction("0.005")
        micro: int = math.ceil(hourly * seconds * 1_000_000 / 3600)
        return micro

    def ingress(self, region: str = "us-east-1") -> list[tuple[str, int, int, str]]:
        """Who may reach what of the groups that are not the default ones."""
        groups = [one for groups in _backend(region).groups.values() for one in groups.values() if one.name != "default"]
        return [(rule.ip_protocol, int(rule.from_port), int(rule.to_port), rule.ip_range["CidrIp"]) for one in groups for rule in one.ingress_rules]

    def age(self, machine: Machine, seconds: float) -> None:
        """The machine was launched so much earlier."""
        machine.state.launch_time -= timedelta(seconds=seconds)

    def end(self, machine: Machine) -> None:
        """The machine shuts itself down."""
        if machine.host is not None:
            machine.host.kill()
        self._ended(machine, "shutdown")

    def forget(self, machine: Machine) -> None:
        """EC2 does not list an instance any more about an hour after its end."""
        for reservation in list(_backend(machine.region).reservations.values()):
            reservation.instances = [one for one in reservation.instances if one.id != machine.id]

    def reset(self) -> None:
        """An empty account."""
        from moto.backends import get_backend

        with self.lock:
            end_all([machine.host for machine in self.machines if machine.host])
            self.machines.clear()
            self.faults.clear()
            self.calls.clear()
            self.answers.clear()
            for backend in get_backend("ec2")[ACCOUNT].values():   # a reset of moto would read 1,300 images again
                for place in (backend.reservations, backend.key_pairs, backend.volumes, backend.enis):
                    place.clear()
                for groups in backend.groups.values():
                    for name in [name for name, group in groups.items() if group.name != "default"]:
                        del groups[name]

    # --- the account's answers ------------------------------------------------------------------------------------

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        service, region = _scope(environ)
        query = {key: values[0] for key, values in parse_qs(body.decode("latin1")).items()} if service in ("ec2", "sts") else {}
        action = query.get("Action") or environ.get("HTTP_X_AMZ_TARGET", "").partition(".")[2] or environ["REQUEST_METHOD"]
        with self.lock:
            self.calls.append(f"{service}:{action}")
            fault = self._fault(action, query, region)
            status, headers, data = self._answer(environ, body, service, region, action, query, fault)
        if fault is not None and fault.kind == "lost":
            environ["werkzeug.socket"].shutdown(2)
            return []
        start(f"{status} {'OK' if status < 300 else 'Error'}", [*((k, v) for k, v in headers if k.lower() != "content-length"), ("Content-Length", str(len(data)))])
        return [data]

    def _fault(self, action: str, query: dict[str, str], region: str) -> Fault | None:
        for fault in self.faults:
            if fault.action == action and (not fault.zone or fault.zone == _zone(query, region)) and query.get("DryRun") != "true":
                fault.times -= 1
                if fault.times == 0:
                    self.faults.remove(fault)
                return fault
        return None

    def _answer(self, environ: dict[str, Any], body: bytes, service: str, region: str, action: str, query: dict[str, str], fault: Fault | None) -> Answer:
        if action in self.deny:
            return _error(*ERRORS["denied"], service)
        if fault is not None and fault.kind in ERRORS:
            return _error(*ERRORS[fault.kind], service)
        if fault is not None and fault.kind == "hidden":
            return 200, XML, f'<DescribeInstancesResponse xmlns="{NAMESPACE}"><reservationSet/></DescribeInstancesResponse>'.encode()
        if service in ("pricing", "servicequotas", "ssm") and (own := self._own(action, json.loads(body or b"{}"))):
            return own
        if action == "DescribeRegions":   # moto has thirty, and builds each when it is first asked
            names = "".join(f"<item><regionName>{name}</regionName></item>" for name in REGIONS)
            return 200, XML, f'<DescribeRegionsResponse xmlns="{NAMESPACE}"><regionInfo>{names}</regionInfo></DescribeRegionsResponse>'.encode()
        if action == "DescribeSpotPriceHistory":
            return _spot_prices(query, region)
        if action == "DeleteSecurityGroup" and query.get("DryRun") != "true" and self._in_use(query.get("GroupId", ""), region):
            return _error("DependencyViolation", 400)
        if action == "RunInstances" and query.get("DryRun") != "true":
            return self._run(environ, body, region, query)
        if action == "DeleteKeyPair" and "KeyPairId" in query:   # moto looks for the name only
            pairs = _backend(region).key_pairs
            for name in [name for name, pair in pairs.items() if pair.id == query["KeyPairId"]]:
                del pairs[name]
        answer = self._moto(environ, body)
        if action == "TerminateInstances":
            self._pull_plugs()
        return answer

    def _run(self, environ: dict[str, Any], body: bytes, region: str, query: dict[str, str]) -> Answer:
        """The same token in the same zone is the same request."""
        token = (query.get("ClientToken", ""), region, _zone(query, region))
        self.asked = query
        said = hashlib.sha256(json.dumps(dict(sorted(query.items()))).encode()).hexdigest()
        if token[0] and token in self.answers:
            known, answer, instance = self.answers[token]
            if known != said:
                return _error("IdempotentParameterMismatch", 400)
            if not next(machine for machine in self.machines if machine.id == instance).up:
                return _error("IdempotentInstanceTerminated", 400)
            return answer
        answer = self._moto(environ, body)
        if answer[0] == 200:
            instance = self._boot(answer[2].decode(), region, query)
            self.answers[token] = (said, answer, instance)
        return answer

    def _boot(self, xml: str, region: str, query: dict[str, str]) -> str:
        found = re.search(r"<instanceId>(i-[0-9a-f]+)", xml)
        assert found
        backend = _backend(region)
        state = backend.get_instance(found[1])
        machine = Machine(found[1], region, query.get("InstanceInitiatedShutdownBehavior", "stop"), None, state)
        self.machines.append(machine)
        if self.boots:
            key = backend.key_pairs[query["KeyName"]].material_public if "KeyName" in query else ""
            machine.host = Host(
                self.folder / found[1], found[1], key=_text(key), user_data=base64.b64decode(query.get("UserData", "")),
                minute=self.minute, ended=lambda reason: self._ended(machine, reason),
            )
            state.nics[0].public_ip = machine.host.address
        return found[1]

    def _ended(self, machine: Machine, reason: str) -> None:
        """A machine went down by itself: terminated, if it was started so, or stopped, and its disk goes on billing."""
        with self.lock:
            if not machine.up:
                return
            backend = _backend(machine.region)
            if reason == "spot" or machine.behaviour == "terminate":
                backend.terminate_instances([machine.id])
            else:
                backend.stop_instances([machine.id])
            if reason == "spot":
                machine.state._reason = machine.state._reason.replace("User initiated", "Service initiated")

    def _pull_plugs(self) -> None:
        for machine in self.machines:
            if not machine.up and machine.host is not None:
                machine.host.kill()

    def _in_use(self, group: str, region: str) -> bool:
        return any(group in [one.id for one in machine.state.nics[0].group_set] for machine in self.up() if machine.region == region)

    def _moto(self, environ: dict[str, Any], body: bytes) -> Answer:
        told: dict[str, Any] = {}

        def start(status: str, headers: list[tuple[str, str]], error: object = None) -> None:
            told.update(status=int(status.split()[0]), headers=headers)

        data = b"".join(self.inner({**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}, start))
        return told["status"], told["headers"], data

    def _own(self, action: str, asked: dict[str, Any]) -> Answer | None:
        """Prices, quotas and images, which moto does not have."""
        if action == "GetProducts":
            wanted = {one["Field"]: one["Value"] for one in asked["Filters"]}
            price = price_of(wanted["instanceType"])
            dimension = {"unit": "Hrs", "pricePerUnit": {"USD": f"{price:.10f}"}, "beginRange": "0"}
            product = {"product": {"attributes": wanted}, "terms": {"OnDemand": {"x": {"effectiveDate": "2026-11-01T00:00:00Z", "priceDimensions": {"y": dimension}}}}}
            return _json({"FormatVersion": "aws_v1", "PriceList": [json.dumps(product)] if price else []})
        if action == "GetServiceQuota":
            return _json({"Quota": {"QuotaCode": asked["QuotaCode"], "ServiceCode": "ec2", "Value": self.quota}})
        image = next((image for word, image in IMAGES.items() if word in asked.get("Name", "")), "")
        return _json({"Parameter": {"Name": asked["Name"], "Type": "String", "Value": image}}) if action == "GetParameter" and image else None


@contextmanager
def ec2_cloud(folder: Path, *, minute: float = 60.0, boots: bool = True, bind: str = "127.0.0.1") -> Iterator[Cloud]:
    """An account on a free port of the loopback (bind="0.0.0.0": its machines reach it too, by their gateway). minute: seconds that a minute of `shutdown -P +N` takes there."""
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    if boots:
        needs_hosts()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    cloud = Cloud(folder, minute=minute, boots=boots, inner=DomainDispatcherApplication(create_backend_app))
    server = make_server(bind, 0, cloud, threaded=True)
    cloud.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield cloud
    finally:
        server.shutdown()
        server.server_close()
        cloud.reset()


def price_of(kind: str) -> float:
    """USD an hour on demand, 0.0 for a type without a price."""
    table = load_data("prices")["machines"]["aws"]["types"]
    return CPU_PRICES.get(kind) or float(table.get(kind, {}).get("usd_per_hour", 0.0))


def _backend(region: str) -> Any:
    from moto.backends import get_backend

    return get_backend("ec2")[ACCOUNT][region]


def _scope(environ: dict[str, Any]) -> tuple[str, str]:
    """Service and region of the signature."""
    found = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    return (found[2], found[1]) if found else ("", "us-east-1")


def _zone(query: dict[str, str], region: str) -> str:
    subnet = query.get("NetworkInterface.1.SubnetId") or query.get("SubnetId")
    return str(_backend(region).get_subnet(subnet).availability_zone) if subnet else query.get("Placement.AvailabilityZone", "")


def _end_of(state: Any) -> float:
    found = re.search(r"\((.+) UTC\)", state._reason or "")
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp() if found else time.time()


def _spot_prices(query: dict[str, str], region: str) -> Answer:
    kinds = [value for key, value in query.items() if key.startswith("InstanceType.")]
    rows = "".join(
        f"<item><instanceType>{kind}</instanceType><productDescription>Linux/UNIX</productDescription>"
        f"<spotPrice>{float(Fraction(str(price_of(kind))) * SPOT_SHARE):.6f}</spotPrice>"
        f"<timestamp>2026-01-01T00:00:00.000Z</timestamp><availabilityZone>{region}{letter}</availabilityZone></item>" for kind in kinds for letter in "abcdef"
    )
    xml = f'<DescribeSpotPriceHistoryResponse xmlns="{NAMESPACE}"><spotPriceHistorySet>{rows}</spotPriceHistorySet></DescribeSpotPriceHistoryResponse>'
    return 200, XML, xml.encode()


def _error(code: str, status: int, service: str = "ec2") -> Answer:
    if service != "ec2":
        return status, [("Content-Type", "application/x-amz-json-1.1")], json.dumps({"__type": code, "message": f"{code} (a fault of the test)"}).encode()
    xml = f"<Response><Errors><Error><Code>{code}</Code><Message>{escape(code)} (a fault of the test)</Message></Error></Errors><RequestID>x</RequestID></Response>"
    return status, XML, xml.encode()


def _json(value: Any) -> Answer:
    return 200, [("Content-Type", "application/x-amz-json-1.1")], json.dumps(value).encode()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
