"""AWS as a provider, against an emulated account: prices, rights, requests, faults, what is left, and the bill."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError, MachineLost, MissingAccess, NoCapacity, UsageError
from forge.plugins.compute import _aws_notes, _state
from forge.plugins.compute.aws import Aws, AwsSettings
from forge.protocols import Lease, Need, Offer, Resource
from tests.servers.ec2 import Cloud, ec2_cloud

NEED = Need(parameters=1000, memory_gib=1, gpu=False, seconds=60)
NOTHING = {"instances": 0, "keys": 0, "groups": 0, "volumes": 0}


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with ec2_cloud(tmp_path_factory.mktemp("ec2"), boots=False) as cloud:
        yield cloud


@pytest.fixture
def cloud(account: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    account.reset()
    account.quota, account.deny = 64.0, set()
    for name, value in account.environment().items():
        monkeypatch.setenv(name, value)
    return account


def aws(**settings: Any) -> Aws:
    return Aws(AwsSettings(**{"types": ("c5.large", "c5a.xlarge", "c5.xlarge"), "my_ip": "203.0.113.7", "python": sys.executable, **settings}))


def offer(provider: Aws, name: str = "c5.large us-east-1") -> Offer:
    return {one.name: one for one in provider.quote(NEED)}[name]


def lease(chosen: Offer, token: str = "lease-1", *, attempt: int = 1, seconds: int = 3600) -> Lease:
    return Lease(token=token, run="run-a", offer=chosen, deadline_seconds=seconds, attempt=attempt)


def remove_all(provider: Aws) -> None:
    while left := provider.find("all"):
        for one in left:
            provider.stop(one)


def requests(cloud: Cloud, action: str) -> int:
    return cloud.calls.count(f"ec2:{action}")


# --- prices and rights -----------------------------------------------------------------------------------------


def test_offers_are_live_prices_with_disk_and_address_on_demand_and_spot(cloud: Cloud) -> None:
    offers = aws(types=("g5.xlarge", "c5.large")).quote(NEED)
    assert [one.name for one in offers] == ["c5.large us-east-1", "c5.large spot us-east-1", "g5.xlarge us-east-1", "g5.xlarge spot us-east-1"]
    gpu, spot = offers[2], offers[3]
    assert gpu.usd_per_hour == spot.usd_per_hour == pytest.approx(1.006 + 200 * 0.08 / 730 + 0.005, abs=1e-6)
    assert (gpu.gpu, gpu.gpus, gpu.device, gpu.region, gpu.image) == ("NVIDIA A10G", 1, "cuda", "us-east-1", "ami-12c6146b")
    assert "AWS price list" in gpu.price_source
    assert "$0.40/h now and never above $1.03/h" in spot.reason


def test_the_dated_table_is_used_and_named_when_the_price_list_cannot_be_had(cloud: Cloud) -> None:
    cloud.fault("GetProducts", "denied", times=-1)
    offers = {one.name: one for one in aws(types=("g5.xlarge", "c5.large")).quote(NEED)}
    assert "configs/prices.yaml of 2026-07-20" in offers["g5.xlarge us-east-1"].price_source
    assert "c5.large us-east-1" not in offers, "a type without a price is not offered: it is never counted as free"


def test_the_table_of_one_region_is_no_price_for_another(cloud: Cloud) -> None:
    cloud.fault("GetProducts", "denied", times=-1)
    assert aws(types=("g5.xlarge",), region="eu-west-1").quote(NEED) == []


def test_only_what_is_large_enough_is_offered(cloud: Cloud) -> None:
    provider = aws(types=("g5.xlarge", "c5.large"))
    assert {one.name.split()[0] for one in provider.quote(NEED.model_copy(update={"gpu": True, "gpu_memory_gib": 20}))} == {"g5.xlarge"}
    assert provider.quote(NEED.model_copy(update={"gpu": True, "gpu_memory_gib": 40})) == []
    with pytest.raises(UsageError, match="400 GiB of disk"):
        provider.quote(NEED.model_copy(update={"disk_gib": 400}))


def test_the_image_is_found_by_its_name_where_the_parameter_is_missing(cloud: Cloud) -> None:
    cloud.fault("GetParameter", "denied", times=-1)
    with pytest.raises(ForgeError, match="no machine image in us-east-1"):
        aws().quote(NEED)
    assert requests(cloud, "DescribeImages") == 1
    assert aws(image="ami-1e749f67").quote(NEED)[0].image == "ami-1e749f67"


def test_a_network_that_is_down_is_a_reason_for_no_offers(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = aws()
    cloud.fault("GetParameter", "error", times=-1)
    with pytest.raises(ForgeError, match="EC2 in us-east-1 cannot be asked"):
        provider.quote(NEED)


def test_without_credentials_nothing_is_asked_and_the_remedy_is_named(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    for verb in (lambda: aws().quote(NEED), lambda: aws().find("all")):
        with pytest.raises(MissingAccess, match="no AWS credentials"):
            verb()
    assert cloud.calls == []


def test_preflight_proves_account_quota_and_rights_and_makes_nothing(cloud: Cloud) -> None:
    provider = aws()
    proven = provider.preflight(offer(provider))
    assert proven[0].startswith("AWS account 123456789012")
    assert "quota L-1216C47A: 2 of 64 free vCPUs" in proven[1]
    assert "7 rights proven" in proven[2]
    assert cloud.left() == NOTHING


def test_preflight_refuses_a_quota_that_is_too_small_and_links_to_the_request(cloud: Cloud) -> None:
    cloud.quota = 0.0
    provider = aws(types=("g5.xlarge",))
    with pytest.raises(NoCapacity, match=r"quota does not allow a g5\.xlarge") as told:
        provider.preflight(offer(provider, "g5.xlarge spot us-east-1"))
    assert "L-3819A6DF is 0 vCPUs" in told.value.why
    assert "servicequotas" in told.value.next


def test_preflight_names_every_right_that_is_missing(cloud: Cloud) -> None:
    provider = aws()
    chosen = offer(provider)
    cloud.deny = {"RunInstances", "ImportKeyPair"}
    with pytest.raises(MissingAccess, match="ec2:RunInstances, ec2:ImportKeyPair") as told:
        provider.preflight(chosen)
    assert told.value.exit_code == 4
    assert "docs/machines.md" in told.value.next


def test_preflight_says_which_rights_a_policy_by_tags_leaves_unproven(cloud: Cloud) -> None:
    provider = aws()
    chosen = offer(provider)
    cloud.deny = {"TerminateInstances"}
    assert provider.preflight(chosen)[3] == "not proven, unless the policy goes by the tag forge:managed: ec2:TerminateInstances"


def test_the_documented_policy_has_every_right_that_is_used_and_no_other(cloud: Cloud, tmp_path: Path) -> None:
    provider = aws(types=("c5.large", "g5.xlarge"))
    chosen = offer(provider, "c5.large spot us-east-1")
    provider.preflight(chosen)
    resource = provider.start(lease(chosen))
    aws(my_ip="203.0.113.9").start(lease(chosen))
    provider.everywhere().find("all")
    remove_all(provider)
    provider.stop(Resource(provider="aws", id="us-east-1/vol-0123456789abcdef0", lease="lease-1", state="live", kind="volume"))
    provider.settle(resource)
    used = {call for call in cloud.calls if call != "sts:GetCallerIdentity"}   # which needs no right
    assert used | {"ec2:CreateTags"} == documented_actions()[0]


RIGHTS_OF_S3 = {   # operation -> the right that it needs, where the names differ (Service Authorization Reference, Amazon S3)
    "HeadObject": "GetObject", "CreateMultipartUpload": "PutObject", "UploadPart": "PutObject", "CompleteMultipartUpload": "PutObject",
    "ListObjectsV2": "ListBucket", "ListMultipartUploads": "ListBucketMultipartUploads", "ListParts": "ListMultipartUploadParts",
}


def test_the_documented_policy_of_the_bucket_has_every_right_that_is_used_and_no_other() -> None:
    source = (Path(__file__).parents[2] / "plugins" / "compute" / "_aws_s3.py").read_text(encoding="utf-8")
    called = re.findall(r'(?:_ask\(|"s3", |get_paginator\(|presigned_url\()"([a-z0-9_]+)"', source)
    operations = {"".join(word.capitalize() for word in name.split("_")) for name in called}
    assert "ListObjectsV2" in operations
    assert {f"s3:{RIGHTS_OF_S3.get(name, name)}" for name in operations} == documented_actions()[1]


def documented_actions() -> list[set[str]]:
    """The actions of each policy in docs/machines.md."""
    text = (Path(__file__).parents[2] / "docs" / "machines.md").read_text(encoding="utf-8")
    policies = [json.loads(block.split("```")[0]) for block in text.split("```json\n")[1:]]
    return [{action for statement in policy["Statement"] for action in statement["Action"]} for policy in policies]


# --- what is asked for -----------------------------------------------------------------------------------------


def test_a_machine_is_closed_encrypted_tagged_and_ends_itself(cloud: Cloud) -> None:
    provider = aws()
    resource = provider.start(lease(offer(provider), seconds=3660))
    asked = cloud.asked
    assert asked["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert (asked["MetadataOptions.HttpTokens"], asked["MetadataOptions.HttpPutResponseHopLimit"]) == ("required", "1")
    disk = {key.rpartition(".")[2]: value for key, value in asked.items() if key.startswith("BlockDeviceMapping.1.Ebs")}
    assert disk == {"VolumeSize": "200", "VolumeType": "gp3", "Encrypted": "true", "DeleteOnTermination": "true"}
    script = base64.b64decode(asked["UserData"]).decode().splitlines()
    assert script[:2] == ["#!/bin/bash", "shutdown -P +60"]
    assert "apt-get" not in "".join(script), "aws.python is ready"
    assert len(asked["ClientToken"]) <= 64
    assert "IamInstanceProfile.Name" not in asked
    machine = cloud.machines[0].state
    tags = {tag["key"]: tag["value"] for tag in machine.get_tags()}
    assert {key: tags[key] for key in ("forge:managed", "forge:run", "forge:lease", "forge:attempt")} == {
        "forge:managed": "1", "forge:run": "run-a", "forge:lease": "lease-1", "forge:attempt": "1"}
    assert tags["forge:deadline"].endswith("Z")
    assert resource.id == f"us-east-1/{machine.id}"
    assert {one.kind for one in provider.find("lease-1")} == {"machine", "key", "group"}
    assert cloud.left() == {"instances": 1, "keys": 1, "groups": 1, "volumes": 1}


def test_a_machine_whose_python_is_to_be_made_gets_what_that_needs_after_its_deadline_and_before_its_key(cloud: Cloud) -> None:
    provider = aws(python="")
    provider.start(lease(offer(provider)))
    script = base64.b64decode(cloud.asked["UserData"]).decode()
    places = [script.index(word) for word in ("shutdown -P +59", "nohup setsid", "install -y --no-install-recommends python3-venv", "ssh_host_ed25519_key <<")]
    assert places == sorted(places)
    assert len(script) < 16384, "EC2's limit"


def test_only_our_address_may_reach_the_ssh_port_and_a_new_address_takes_the_place_of_the_old(cloud: Cloud) -> None:
    provider = aws()
    provider.start(lease(offer(provider)))
    assert cloud.ingress() == [("tcp", 22, 22, "203.0.113.7/32")]
    elsewhere = aws(my_ip="203.0.113.9")
    elsewhere.start(lease(offer(elsewhere)))
    assert cloud.ingress() == [("tcp", 22, 22, "203.0.113.9/32")]
    assert len(cloud.up()) == 1


def test_keys_lie_in_a_private_folder_and_go_when_the_machine_is_settled(cloud: Cloud) -> None:
    provider = aws()
    resource = provider.start(lease(offer(provider)))
    note = _aws_notes.read_note("lease-1")
    assert note is not None
    assert [file.stat().st_mode & 0o777 for file in (note.folder, note.folder / "key", note.folder / "host_key")] == [0o700, 0o600, 0o600]
    secret = (note.folder / "key").read_bytes()
    assert secret not in base64.b64decode(cloud.asked["UserData"])
    remove_all(provider)
    provider.settle(resource)
    assert not (_state.state_home() / "aws" / "lease-1" / "1" / "key").exists()
    assert "PRIVATE" not in json.dumps(note.model_dump(mode="json"))


def test_a_machine_whose_key_is_not_here_is_lost(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = (provider := aws()).start(lease(offer(provider)))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another computer"))
    with pytest.raises(MachineLost, match="cannot be reached from here"):
        aws().channel(resource, tmp_path)


def test_spot_is_bounded_by_the_price_on_demand(cloud: Cloud) -> None:
    provider = aws()
    provider.start(lease(offer(provider, "c5.large spot us-east-1")))
    spot = {key.rpartition(".")[2]: value for key, value in cloud.asked.items() if "Spot" in key}
    assert spot["MaxPrice"] == "0.085000"
    assert spot["InstanceInterruptionBehavior"] == "terminate"


# --- faults ----------------------------------------------------------------------------------------------------


def test_asking_again_gives_the_same_machine_also_from_another_process(cloud: Cloud) -> None:
    chosen = offer(aws())
    assert aws().start(lease(chosen)).id == aws().start(lease(chosen)).id
    assert len(cloud.machines) == 1


def test_a_lost_answer_makes_one_machine(cloud: Cloud) -> None:
    provider = aws()
    provider.retry_seconds = 0.01
    cloud.fault("RunInstances", "lost")
    resource = provider.start(lease(offer(provider)))
    assert requests(cloud, "RunInstances") == 2, "asked again, with the same token"
    assert [machine.id for machine in cloud.machines] == [resource.id.split("/")[1]]


def test_throttling_and_errors_of_the_service_are_waited_out(cloud: Cloud) -> None:
    provider = aws()
    chosen = offer(provider)
    provider.retry_seconds = 0.01
    cloud.fault("RunInstances", "throttle", times=2)
    cloud.fault("RunInstances", "error")
    cloud.fault("CreateSecurityGroup", "throttle")
    provider.start(lease(chosen))
    assert len(cloud.machines) == 1


def test_no_room_in_three_zones_then_a_machine_in_the_fourth(cloud: Cloud) -> None:
    provider = aws(types=("c5.large",))
    chosen = offer(provider)
    zones = provider._catalogue("us-east-1").zones("c5.large")
    assert len(zones) > 3
    for zone in zones[:3]:
        cloud.fault("RunInstances", "capacity", times=-1, zone=zone)
    provider.start(lease(chosen))
    assert cloud.machines[0].state.placement.zone == zones[3]


def test_another_type_is_taken_when_it_is_as_good_and_no_dearer(cloud: Cloud) -> None:
    provider = aws(types=("c5.large", "c5a.xlarge", "c5.xlarge"))
    dear = offer(provider, "c5.xlarge us-east-1")
    cloud.fault("RunInstances", "capacity", times=len(provider._catalogue("us-east-1").zones("c5.xlarge")))
    provider.start(lease(dear))
    assert cloud.machines[0].state.instance_type == "c5a.xlarge", "as many cores, as much memory, cheaper; c5.large is too small"


def test_no_room_anywhere_is_told_and_leaves_nothing(cloud: Cloud) -> None:
    provider = aws(types=("c5.large", "c5.xlarge"))
    chosen = offer(provider)
    cloud.fault("RunInstances", "capacity", times=-1)
    with pytest.raises(NoCapacity, match=r"EC2 has no c5\.large us-east-1 now") as told:
        provider.start(lease(chosen))
    assert told.value.exit_code == 7
    assert "c5.xlarge" not in told.value.why, "it is dearer than what was approved"
    assert cloud.left() == NOTHING
    assert provider.find("all") == []


def test_a_quota_at_the_start_is_told_and_leaves_nothing(cloud: Cloud) -> None:
    provider = aws()
    chosen = offer(provider)
    cloud.fault("RunInstances", "quota", times=-1)
    with pytest.raises(NoCapacity, match="quota"):
        provider.start(lease(chosen))
    assert requests(cloud, "RunInstances") == 1
    assert cloud.left() == NOTHING


def test_a_refused_right_at_the_start_is_told_and_leaves_nothing(cloud: Cloud) -> None:
    provider = aws()
    chosen = offer(provider)
    cloud.fault("RunInstances", "denied", times=-1)
    with pytest.raises(MissingAccess, match="ec2:RunInstances") as told:
        provider.start(lease(chosen))
    assert told.value.exit_code == 4
    assert cloud.left() == NOTHING


def test_the_token_of_a_machine_that_is_gone_is_not_used_again(cloud: Cloud) -> None:
    provider = aws()
    chosen = offer(provider)
    provider.stop(provider.start(lease(chosen)))
    with pytest.raises(MachineLost, match="gone already"):
        aws().start(lease(chosen))
    provider.start(lease(chosen, attempt=2))
    assert [machine.up for machine in cloud.machines] == [False, True]


def test_a_request_in_other_words_is_not_sent_as_a_new_one(cloud: Cloud) -> None:
    chosen = offer(aws())
    aws().start(lease(chosen))
    with pytest.raises(ForgeError, match="in other words"):
        aws(idle_minutes=5).start(lease(chosen))
    assert len(cloud.machines) == 1


# --- what is left ----------------------------------------------------------------------------------------------


def test_what_runs_left_is_found_by_tag_on_every_page_and_goes(cloud: Cloud) -> None:
    provider = aws()
    chosen = offer(provider)
    for number in range(4):
        provider.start(lease(chosen, f"lease-{number}"))
    found = provider.find("all")
    assert len([one for one in found if one.kind == "machine"]) == 4
    assert {one.lease for one in provider.find("run-a")} == {f"lease-{number}" for number in range(4)}
    assert [one.lease for one in provider.find("lease-2")] == ["lease-2"] * 3
    assert provider.find("run-b") == []
    remove_all(provider)
    assert cloud.left() == NOTHING


def test_every_region_that_was_used_is_searched_and_all_of_them_on_demand(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = aws(region="eu-west-1", image="ami-1e749f67")
    resource = there.start(lease(offer(there, "c5.large us-east-1".replace("us-east-1", "eu-west-1"))))
    assert resource.id.startswith("eu-west-1/")
    assert [one.id for one in aws().find("lease-1") if one.kind == "machine"] == [resource.id], "this computer remembers the region"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another computer"))
    assert aws().find("all") == []
    assert [one.id for one in aws(also_regions=("eu-west-1",)).find("all") if one.kind == "machine"] == [resource.id]
    assert [one.id for one in aws().everywhere().find("all") if one.kind == "machine"] == [resource.id]
    remove_all(aws().everywhere())
    assert cloud.left("eu-west-1") == NOTHING


def test_a_machine_past_its_deadline_says_so_by_the_clock_of_aws(cloud: Cloud) -> None:
    provider = aws()
    chosen = offer(provider)
    provider.start(lease(chosen, "lease-old", seconds=-5))
    provider.start(lease(chosen, "lease-new"))
    assert {one.lease: one.overdue for one in provider.find("all") if one.kind == "machine"} == {"lease-old": True, "lease-new": False}


def test_the_command_for_a_person_names_region_and_machine(cloud: Cloud) -> None:
    machine = Resource(provider="aws", id="eu-west-1/i-0123", lease="lease-1", state="live")
    assert aws(profile="work").stop_command(machine) == "aws ec2 terminate-instances --instance-ids i-0123 --region eu-west-1 --profile work"
    assert "delete-security-group --group-id sg-1" in aws().stop_command(machine.model_copy(update={"id": "eu-west-1/sg-1"}))


# --- the bill --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["c5.large us-east-1", "c5.large spot us-east-1"])
def test_the_settlement_is_the_bill(cloud: Cloud, name: str) -> None:
    provider = aws()
    resource = provider.start(lease(offer(provider, name)))
    cloud.age(cloud.machines[0], 5000)
    provider.stop(resource)
    spent = aws().settle(resource)
    assert spent == cloud.bill()
    assert spent > 5000 * 0.03 / 3600 * 1e6
    assert aws().settle(resource) == spent, "asked again after a kill: the same"


def test_a_machine_that_nobody_saw_is_settled_from_its_tags(cloud: Cloud) -> None:
    provider = aws()
    chosen = offer(provider)
    provider.stop(provider.start(lease(chosen)))
    provider.stop(provider.start(lease(chosen, attempt=2)))
    unseen = Resource(provider="aws", id="lease-1", lease="lease-1", state="gone")
    assert aws().settle(unseen) == cloud.bill_of(cloud.machines[1]), "the first attempt was settled before the second began"


def test_a_machine_that_aws_has_forgotten_is_settled_at_its_worst(cloud: Cloud) -> None:
    provider = aws()
    chosen = offer(provider)
    resource = provider.start(lease(chosen, seconds=3600))
    provider.stop(resource)
    cloud.forget(cloud.machines[0])
    assert provider.settle(resource) == pytest.approx(chosen.usd_per_hour * 1e6, abs=2)


def test_what_a_machine_cost_is_not_guessed_without_its_prices(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = (provider := aws()).start(lease(offer(provider)))
    provider.stop(resource)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another computer"))
    with pytest.raises(ForgeError, match="not known here"):
        aws().settle(resource)
