"""Large inputs by way of a bucket: sent once in checked parts, fetched by machines through a signed address, removed with the lease.

    s3://BUCKET/slm-forge/<run>/<token>/<sha256>

An upload that was broken off goes on where it stopped: the bucket is asked which parts it has, and each is compared by its hash.
The machine needs no credentials: the address is signed for this one object, until the lease's deadline.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forge.errors import ForgeError
from forge.plugins.compute._aws_api import Account, code_of
from forge.plugins.compute._channel import HostChannel
from forge.protocols import Lease, Resource
from forge.store import hash_path

PREFIX = "slm-forge/"
PART_BYTES = 64 << 20
LONGEST_SECONDS = 7 * 86400
"""A signed address is good for a week at most (SigV4)."""
TRIES = 3

FETCH = """\
import hashlib, os, sys, time, urllib.error, urllib.request
target, size, sha256 = sys.argv[1], int(sys.argv[2]), sys.argv[3]
partial = target + ".partial"
os.makedirs(os.path.dirname(target), exist_ok=True)
for pause in (1, 2, 4, 8, 16, 32, 64, 0):
    at = os.path.getsize(partial) if os.path.exists(partial) else 0
    if at >= size:
        break
    try:
        request = urllib.request.Request(os.environ["FORGE_URL"], headers={"Range": "bytes=%d-" % at})
        with urllib.request.urlopen(request, timeout=60) as answer, open(partial, "ab") as file:
            while data := answer.read(1 << 20):
                file.write(data)
    except OSError as error:
        print(error, flush=True)
        time.sleep(pause)
hasher = hashlib.sha256()
with open(partial, "rb") as file:
    while data := file.read(1 << 20):
        hasher.update(data)
if hasher.hexdigest() != sha256:
    os.unlink(partial)
    sys.exit("arrived damaged")
os.replace(partial, target)
"""
"""Python 3.8 and later, standard library."""


class Bucket:
    """The bucket of aws.bucket, for one lease."""

    def __init__(self, account: Account, lease: Lease, *, part_bytes: int = PART_BYTES) -> None:
        self.account, self.lease, self.part_bytes = account, lease, part_bytes
        self.name = str(account.settings.bucket)

    def send(self, path: Path, sha256: str) -> str:
        """The key of the file's object; nothing is sent that is there already."""
        key = f"{PREFIX}{self.lease.run}/{self.lease.token}/{sha256}"
        if not self._is_there(key, path.stat().st_size):
            upload = self._upload(key)
            parts = list(self._parts(path, key, upload))
            self._ask("complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
        return key

    def address(self, key: str, seconds: float) -> str:
        """A signed address of an object."""
        client = self.account.client("s3")
        return str(client.generate_presigned_url("get_object", Params={"Bucket": self.name, "Key": key}, ExpiresIn=max(60, min(LONGEST_SECONDS, int(seconds)))))

    def _is_there(self, key: str, size: int) -> bool:
        try:
            return bool(self._ask("head_object", Key=key)["ContentLength"] == size)
        except Exception as error:
            if code_of(error) in ("404", "NoSuchKey", "NotFound"):
                return False
            raise

    def _upload(self, key: str) -> str:
        """The upload that was begun for the key, or a new one."""
        begun = self._ask("list_multipart_uploads", Prefix=key).get("Uploads", [])
        return str(begun[0]["UploadId"] if begun else self._ask("create_multipart_upload", Key=key, ChecksumAlgorithm="SHA256")["UploadId"])

    def _parts(self, path: Path, key: str, upload: str) -> Iterator[dict[str, Any]]:
        """Every part with its hash; those that the bucket has are not sent again."""
        client = self.account.client("s3")
        pages = client.get_paginator("list_parts").paginate(Bucket=self.name, Key=key, UploadId=upload)
        there = {part["PartNumber"]: part for page in pages for part in page.get("Parts", ())}
        with path.open("rb") as file:
            for number in range(1, max(1, -(-path.stat().st_size // self.part_bytes)) + 1):
                data = file.read(self.part_bytes)
                checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
                part = there.get(number)
                if part is None or not _is_same(part, data, checksum):
                    part = self._ask("upload_part", Key=key, UploadId=upload, PartNumber=number, Body=data, ChecksumSHA256=checksum)
                yield {"PartNumber": number, "ETag": part["ETag"], "ChecksumSHA256": checksum}

    def _ask(self, operation: str, **request: Any) -> dict[str, Any]:
        return self.account.call("s3", operation, Bucket=self.name, **request)


class StagedChannel(HostChannel):
    """A channel whose large files go by way of a bucket. seconds: for which addresses are signed."""

    bucket: Bucket
    stage_bytes: int
    seconds: float

    def put(self, local: Path, remote: str, sha256: str = "") -> None:
        """As HostChannel.put; a folder with a large file in it is sent file by file."""
        large = [path for path in ([local] if local.is_file() else local.rglob("*")) if path.is_file() and path.stat().st_size >= self.stage_bytes]
        if not large:
            super().put(local, remote, sha256)
        elif local.is_file():
            self._by_bucket(local, remote, sha256 or hash_path(local))
        else:
            for path in sorted(path for path in local.rglob("*") if path.is_file()):
                self.put(path, f"{remote}/{path.relative_to(local).as_posix()}", hash_path(path))

    def _by_bucket(self, local: Path, remote: str, sha256: str) -> None:
        name = hashlib.sha256(f"{remote} {sha256}".encode()).hexdigest()[:16]
        if any(self.poll(f"fetch-{name}-{number}") == 0 for number in range(TRIES)):
            return
        key = self.bucket.send(local, sha256)
        for number in range(TRIES):
            argv = [self.host.python, "-c", FETCH, self.path(remote), str(local.stat().st_size), sha256]
            self.spawn(f"fetch-{name}-{number}", argv, {"FORGE_URL": self.bucket.address(key, self.seconds)}, results=False)
            while (code := self.poll(f"fetch-{name}-{number}")) is None:
                time.sleep(self.poll_seconds)
            if code == 0:
                return
        log = self.read(f"jobs/fetch-{name}-{number}/log", 0).decode(errors="replace").strip()
        raise ForgeError(f"{remote} does not arrive by way of s3://{self.bucket.name}", why=log[-300:], next='forge resume --set aws.bucket=""')


def _is_same(part: Mapping[str, Any], data: bytes, checksum: str) -> bool:
    """Whether a part that is there has these bytes. Stores that list no SHA-256 have the MD5 as its ETag."""
    if listed := part.get("ChecksumSHA256"):
        return bool(listed == checksum)
    return bool(part["ETag"].strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest())


def objects(account: Account) -> Iterator[Resource]:
    """What leases have in the bucket: whole objects, and uploads that were never completed, whose parts bill too."""
    bucket = account.settings.bucket
    for page in account.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=PREFIX):
        for one in page.get("Contents", ()):
            yield _resource(account, "object", one["Key"], "")
    for page in account.client("s3").get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=PREFIX):
        for one in page.get("Uploads", ()):
            yield _resource(account, "upload", one["Key"], one["UploadId"])


def remove(account: Account, name: str) -> None:
    """Remove an object ("s3:KEY") or a broken off upload ("s3:KEY?UPLOAD"); nothing when it is gone."""
    key, _, upload = name.removeprefix("s3:").partition("?")
    try:
        if upload:
            account.call("s3", "abort_multipart_upload", Bucket=account.settings.bucket, Key=key, UploadId=upload)
        else:
            account.call("s3", "delete_object", Bucket=account.settings.bucket, Key=key)
    except Exception as error:
        if code_of(error) not in ("NoSuchUpload", "NoSuchKey"):
            raise


def command(bucket: str, name: str) -> str:
    """What a person types."""
    key, _, upload = name.removeprefix("s3:").partition("?")
    return f"aws s3api abort-multipart-upload --bucket {bucket} --key {key} --upload-id {upload}" if upload else f"aws s3 rm s3://{bucket}/{key}"


def _resource(account: Account, kind: str, key: str, upload: str) -> Resource:
    run, token = ([*key.removeprefix(PREFIX).split("/"), "", ""])[:2]
    name = f"{account.region}/s3:{key}" + (f"?{upload}" if upload else "")
    return Resource(provider="aws", id=name, lease=token, run=run, state="live", kind=kind)
