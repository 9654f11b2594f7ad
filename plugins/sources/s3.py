"""S3 and what speaks its protocol (endpoint_url): the objects below a prefix, with boto3.

Credentials come from the standard AWS chain (environment, profile, instance role), never from sources.yaml. Listing and
reading may cost a few cents per thousand requests at AWS; nothing here is counted against the budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from forge.errors import ForgeError, MissingAccess
from forge.phase import Requirement, Settings
from forge.plugins.sources._files import ByteBudget, FilesSettings, Names, head_sample, write_chunks
from forge.previews import HEAD_BYTES
from forge.protocols import Fetching, Preview, Sample

CHUNK = 1 << 20
PAGE_KEYS = 1000


class S3Settings(FilesSettings):
    """A prefix in a bucket."""

    bucket: str = Field(min_length=1, description="the bucket's name")
    prefix: str = Field("", description="what the keys begin with")
    suffixes: tuple[str, ...] = Field((), description="only keys that end so (.pdf, .md), whatever the case")
    endpoint_url: str = Field("", description="another server than AWS that speaks S3")
    region: str = Field("", description="the bucket's region, where the AWS chain does not say it")
    profile: str = Field("", description="a profile of ~/.aws/config")
    anonymous: bool = Field(False, description="read a public bucket without credentials")


class S3Source:
    """The objects below a prefix."""

    name: ClassVar[str] = "s3"
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="boto3", extra="aws"),)
    settings: ClassVar[type[Settings]] = S3Settings

    def fetch(self, settings: S3Settings, folder: Path, ctx: Fetching) -> Mapping[str, Any]:
        """Each object under its key without the prefix's folder. An object that changes between list and read is an error."""
        with _told(settings):
            client = _client(settings)
            budget, names, facts, old = ByteBudget(settings.max_bytes), Names(), dict[str, Any](), ctx.facts.get("objects", {})
            for key, size, etag in _objects(client, settings):
                ctx.check_stop()
                ctx.progress(len(facts), None)
                name = names.of(_below(key, settings.prefix))
                kept = ctx.previous / old[key]["file"] if ctx.previous and old.get(key, {}).get("etag") == etag else None
                if kept is not None and kept.is_file() and kept.stat().st_size == size:
                    write_chunks(folder / name, _chunks(kept), budget, ctx)
                else:
                    body = client.get_object(Bucket=settings.bucket, Key=key, IfMatch=etag)["Body"]
                    write_chunks(folder / name, body.iter_chunks(CHUNK), budget, ctx)
                facts[key] = {"file": name, "etag": etag}
        return {"objects": facts}

    def preview(self, settings: S3Settings, samples: int, ctx: Fetching) -> Preview:
        """Counts from the listing; the first objects' beginnings by ranged reads."""
        count, total, shown = 0, 0, list[Sample]()
        with _told(settings):
            client = _client(settings)
            for key, size, _ in _objects(client, settings):
                ctx.check_stop()
                count, total = count + 1, total + size
                if len(shown) < samples:
                    span = {"Range": f"bytes=0-{HEAD_BYTES - 1}"} if size else {}
                    head = client.get_object(Bucket=settings.bucket, Key=key, **span)["Body"].read(HEAD_BYTES)
                    shown.append(head_sample(key, head))
        return Preview(files=count, bytes=total, samples=tuple(shown))


@contextmanager
def _told(settings: S3Settings) -> Iterator[None]:
    """botocore's errors in the house's form. They name operation, bucket and code, and hold no credentials."""
    from botocore import exceptions as boto

    where = f"s3://{settings.bucket}/{settings.prefix}"
    try:
        yield
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound) as error:
        raise MissingAccess(
            f"there are no credentials for {where}", why=str(error),
            next="export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… (or set profile, or anonymous: true for a public bucket)",
        ) from None
    except (boto.BotoCoreError, boto.ClientError) as error:
        raise ForgeError(f"{where} cannot be read", why=str(error), next="check bucket, prefix, region, endpoint_url and the rights of your key") from None


def _client(settings: S3Settings) -> Any:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(retries={"max_attempts": 5, "mode": "standard"}, connect_timeout=20, read_timeout=60, signature_version=UNSIGNED if settings.anonymous else None)
    session = boto3.session.Session(profile_name=settings.profile or None, region_name=settings.region or None)
    return session.client("s3", endpoint_url=settings.endpoint_url or None, config=config)


def _objects(client: Any, settings: S3Settings) -> Iterator[tuple[str, int, str]]:
    """(key, bytes, etag) of the wanted objects, page by page, in the order of keys."""
    endings = tuple(suffix.lower() for suffix in settings.suffixes)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=settings.bucket, Prefix=settings.prefix, PaginationConfig={"PageSize": PAGE_KEYS})
    for page in pages:
        for entry in page.get("Contents", ()):
            key = str(entry["Key"])
            if not key.endswith("/") and (not endings or key.lower().endswith(endings)) and settings.wants(_below(key, settings.prefix)):
                yield key, int(entry["Size"]), str(entry["ETag"])


def _below(key: str, prefix: str) -> str:
    """The key without the folders of the prefix: "docs/2024/a.pdf" below "docs/20" is "2024/a.pdf"."""
    return key[prefix.rfind("/") + 1 :]


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


source = S3Source()
