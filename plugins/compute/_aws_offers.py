"""What EC2 offers: types, live prices with the dated table as a fallback, zones and images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from forge.config import load_data
from forge.errors import ForgeError, MissingAccess, UsageError
from forge.plugins.compute._aws_api import Account
from forge.protocols import Need, Offer

GIB = 1024**3
HOURS_A_MONTH = 730
"""AWS bills a disk's month by the second, as a share of its hours (aws.amazon.com/ebs/pricing)."""
GPU_IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
CPU_IMAGE = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
"""24.04 has Python 3.12; that of 22.04 (3.10) is too old for slm-forge."""
GPU_IMAGES, CPU_IMAGES = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04)*", "ubuntu/images/hvm-ssd*/ubuntu-noble-24.04-amd64-server-*"
CANONICAL = "099720109477"


@dataclass(frozen=True)
class Kind:
    """One instance type in a region. usd_per_hour: on demand, the machine alone. spot: by zone, USD an hour now."""

    name: str
    usd_per_hour: float
    source: str
    cores: int
    memory_gib: float
    gpu: str
    gpus: int
    gpu_memory_gib: float
    bf16: bool
    spot: Mapping[str, float]

    def as_good_as(self, other: Offer) -> bool:
        """It may take the place of an offer: the same GPU, so that the plan's hours hold, and no less of anything."""
        same = (self.gpu, self.gpus) == (other.gpu, other.gpus if other.gpu else 0)
        enough = self.cores >= other.cores and self.memory_gib >= other.memory_gib and self.gpu_memory_gib >= other.gpu_memory_gib
        return same and enough and self.bf16 >= other.bf16


class Catalogue:
    """The types of one region, asked once."""

    def __init__(self, account: Account) -> None:
        self.account, self.table = account, load_data("prices")["machines"]["aws"]
        self._kinds: dict[str, Kind] | None = None
        self._images: dict[bool, str] = {}

    @property
    def kinds(self) -> dict[str, Kind]:
        """By name, cheapest first."""
        if self._kinds is None:
            found = self._found()
            self._kinds = {kind.name: kind for kind in sorted(found, key=lambda kind: (kind.usd_per_hour, kind.name))}
        return self._kinds

    def extras_per_hour(self) -> float:
        """Disk and address of a machine, USD an hour."""
        disk: float = self.account.settings.disk_gib * float(self.table["disk_usd_per_gib_month"]) / HOURS_A_MONTH
        return disk + float(self.table["address_usd_per_hour"])

    def offers(self, need: Need) -> list[Offer]:
        """What fits, cheapest first; each on demand and as spot, whose price is at most the same."""
        if need.disk_gib > self.account.settings.disk_gib:
            raise UsageError(
                f"the run needs {need.disk_gib:.0f} GiB of disk", why=f"aws.disk_gib is {self.account.settings.disk_gib}",
                next=f"forge run … --set aws.disk_gib={need.disk_gib * 1.1:.0f}",
            )
        fitting = [kind for kind in self.kinds.values() if _fits(kind, need)]
        return [offer for kind in fitting for offer in (self._offer(kind, spot=False), self._offer(kind, spot=True)) if not offer.spot or kind.spot]

    def image(self, gpu: bool) -> str:
        """The machine image: aws.image, or what AWS names the newest, or the newest by name."""
        if self.account.settings.image:
            return str(self.account.settings.image)
        if gpu not in self._images:
            self._images[gpu] = self._by_parameter(GPU_IMAGE if gpu else CPU_IMAGE) or self._by_name(gpu)
        return self._images[gpu]

    def zones(self, kind: str) -> list[str]:
        """Zones of the region that have the type; for spot the cheapest come first."""
        filters = [{"Name": "instance-type", "Values": [kind]}]
        found = self.account.pages("describe_instance_type_offerings", "InstanceTypeOfferings", LocationType="availability-zone", Filters=filters)
        spot = self.kinds[kind].spot if kind in self.kinds else {}
        return sorted((one["Location"] for one in found), key=lambda zone: (spot.get(zone, 0.0), zone))

    def _offer(self, kind: Kind, *, spot: bool) -> Offer:
        region, most = self.account.region, kind.usd_per_hour + self.extras_per_hour()
        now = f"spot, ${min(kind.spot.values()):.2f}/h now and never above" if spot else "on demand,"
        machine = f"{kind.gpus} x {kind.gpu}" if kind.gpu else f"{kind.cores} cores"
        return Offer(
            provider="aws", name=f"{kind.name} spot {region}" if spot else f"{kind.name} {region}", usd_per_hour=round(most, 6),
            device="cuda" if kind.gpu else "cpu", cores=kind.cores, memory_gib=kind.memory_gib, gpu=kind.gpu, gpus=max(1, kind.gpus),
            gpu_memory_gib=kind.gpu_memory_gib, bf16=kind.bf16, spot=spot, region=region, image=self.image(bool(kind.gpu)), price_source=kind.source,
            reason=f"EC2 {kind.name}: {machine}; {now} ${most:.2f}/h with disk and address",
        )

    def _found(self) -> list[Kind]:
        from concurrent.futures import ThreadPoolExecutor

        names = list(self.account.settings.types) or list(self.table["types"])
        hardware = {name: row for name, row in self.table["types"].items() if name in names}
        unknown = [name for name in names if name not in hardware]
        hardware |= self._described(unknown)
        with ThreadPoolExecutor(8) as pool:
            prices = dict(zip(hardware, pool.map(self._price, hardware), strict=True))
        spot = self._spot(hardware)
        return [_kind(name, row, price[0], price[1], spot.get(name, {})) for name, row in hardware.items() if (price := prices[name])]

    def _described(self, names: list[str]) -> dict[str, Mapping[str, Any]]:
        """Hardware of types that the table does not have."""
        if not names:
            return {}
        found = self.account.pages("describe_instance_types", "InstanceTypes", InstanceTypes=names)
        return {one["InstanceType"]: _row(one) for one in found if "x86_64" in one["ProcessorInfo"]["SupportedArchitectures"]}

    def _price(self, kind: str) -> tuple[float, str] | None:
        """USD an hour on demand and where that comes from; None when nobody tells: never counted as free."""
        wanted = {
            "instanceType": kind, "regionCode": self.account.region, "operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA",
            "capacitystatus": "Used",
        }
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
        try:
            answer = self.account.call("pricing", "get_products", ServiceCode="AmazonEC2", Filters=filters, FormatVersion="aws_v1")
            found = _on_demand(answer["PriceList"])
        except Exception as error:  # noqa: BLE001 - the price list is one source of two; which one was used is shown with the price
            found, why = None, type(error).__name__
        else:
            why = "no price there"
        if found:
            return found, f"AWS price list, {self.account.now:%Y-%m-%d}"
        row = self.table["types"].get(kind)
        if row is None or self.account.region != self.table["region"]:
            return None
        return float(row["usd_per_hour"]), f"configs/prices.yaml of {self.table['as_of']}; not live ({why})"

    def _spot(self, kinds: Iterable[str]) -> dict[str, dict[str, float]]:
        """Spot prices now, by type and zone; none when the account may not ask."""
        request: dict[str, Any] = {"InstanceTypes": list(kinds), "ProductDescriptions": ["Linux/UNIX"], "StartTime": self.account.now}
        found: dict[str, dict[str, float]] = {}
        try:
            for row in self.account.pages("describe_spot_price_history", "SpotPriceHistory", **request):
                found.setdefault(row["InstanceType"], {}).setdefault(row["AvailabilityZone"], float(row["SpotPrice"]))
        except MissingAccess:
            return {}
        return found

    def _by_parameter(self, name: str) -> str:
        try:
            return str(self.account.call("ssm", "get_parameter", Name=name)["Parameter"]["Value"])
        except MissingAccess:
            return ""
        except Exception as error:
            if type(error).__name__ == "ParameterNotFound":
                return ""
            raise

    def _by_name(self, gpu: bool) -> str:
        filters = [{"Name": "name", "Values": [GPU_IMAGES if gpu else CPU_IMAGES]}, {"Name": "state", "Values": ["available"]}]
        found = list(self.account.pages("describe_images", "Images", Owners=["amazon"] if gpu else [CANONICAL], Filters=filters))
        if not found:
            raise ForgeError(
                f"no machine image in {self.account.region}", why=f"neither {GPU_IMAGE if gpu else CPU_IMAGE} nor an image of that name",
                next="forge run … --set aws.image=ami-…",
            )
        return str(max(found, key=lambda image: str(image.get("CreationDate", "")))["ImageId"])


def _fits(kind: Kind, need: Need) -> bool:
    if kind.gpu:
        return kind.gpu_memory_gib >= (need.gpu_memory_gib or need.memory_gib)
    return not need.gpu and kind.memory_gib >= need.memory_gib


def _kind(name: str, row: Mapping[str, Any], usd_per_hour: float, source: str, spot: Mapping[str, float]) -> Kind:
    return Kind(
        name=name, usd_per_hour=usd_per_hour, source=source, cores=int(row["cores"]), memory_gib=float(row["memory_gib"]), gpu=str(row.get("gpu", "")),
        gpus=int(row.get("gpus", 0)), gpu_memory_gib=float(row.get("gpu_memory_gib", 0.0)), bf16=bool(row.get("bf16", False)), spot=spot,
    )


def _row(described: Mapping[str, Any]) -> dict[str, Any]:
    gpus = described.get("GpuInfo", {}).get("Gpus", [])
    row = {"cores": described["VCpuInfo"]["DefaultVCpus"], "memory_gib": round(described["MemoryInfo"]["SizeInMiB"] / 1024, 1)}
    if not gpus:
        return row
    gpu = gpus[0]
    bf16 = gpu["Name"] not in ("T4", "V100", "M60", "K80", "T4g")   # before Ampere
    memory_gib = round(gpu["MemoryInfo"]["SizeInMiB"] / 1024, 1)
    return {**row, "gpu": f"{gpu['Manufacturer']} {gpu['Name']}", "gpus": gpu["Count"], "gpu_memory_gib": memory_gib, "bf16": bf16}


def _on_demand(products: list[Any]) -> float | None:
    """The hourly price in a product of the price list; None when there is none."""
    import json

    for text in products:
        terms = (json.loads(text) if isinstance(text, str) else text)["terms"].get("OnDemand", {})
        for term in terms.values():
            for dimension in term["priceDimensions"].values():
                if dimension["unit"] == "Hrs" and float(dimension["pricePerUnit"].get("USD", 0)) > 0:
                    return float(dimension["pricePerUnit"]["USD"])
    return None
