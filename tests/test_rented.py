"""A rehearsal that rents: from the table of machines through the approval to the lease and its bill, and what stops it on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_run import HANDBOOK, Place

pytestmark = [pytest.mark.local, pytest.mark.slow]
PROVIDER = '''
import json
from pathlib import Path
from forge.errors import NoCapacity
from forge.plugins.compute.local import Local

TOLD = Path(__file__).with_name("market.json")

class Rented(Local):
    """This machine under another name, for a price, in two regions."""
    name = "rented"
    def quote(self, need):
        market = json.loads(TOLD.read_text())
        (here, *_) = super().quote(need)
        more = {"provider": "rented", "usd_per_hour": market["usd_per_hour"], "price_source": "market.json"}
        return [here.model_copy(update={**more, "name": f"cpu {region}", "region": region}) for region in ("east", "west")]
    def preflight(self, offer):
        return [f"{offer.name} has quota"]
    def start(self, lease):
        if lease.offer.region in json.loads(TOLD.read_text())["sold_out"]:
            raise NoCapacity("sold out", why=lease.offer.region)
        return super().start(lease)

provider = Rented()
'''


class Rental(Place):
    """A rehearsal on a provider whose price and stock a file tells."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "plugins").mkdir(parents=True)
        (folder / "plugins" / "rented.py").write_text(PROVIDER, encoding="utf-8")

    def market(self, usd_per_hour: float, *sold_out: str) -> None:
        """Set price and stock."""
        told = f'{{"usd_per_hour": {usd_per_hour}, "sold_out": [{", ".join(f"{chr(34)}{one}{chr(34)}" for one in sold_out)}]}}'
        (self.folder / "plugins" / "market.json").write_text(told, encoding="utf-8")

    def start(self, budget: float, code: int) -> str:
        """Begin the run; returns what was printed."""
        return self.forge(
            "run", str(HANDBOOK), "--dry-run", "--id", "first", "--budget", str(budget), "--provider", "rented", "--plugin-dir", str(self.folder / "plugins"),
            code=code,
        )

    def resume(self, *more: str, code: int = 0) -> str:
        """Go on up to the lease; returns what was printed."""
        return self.forge("resume", "first", "--until", "provision", *more, code=code)

    def approve(self) -> None:
        """Approve the plan as it is."""
        self.forge("approve", "first", "--plan", self.json("plan", "first")["sha256"][:12], "--stop")


def test_a_run_rents_only_what_was_approved_and_pays_only_for_what_it_got(tmp_path: Path) -> None:
    place = Rental(tmp_path)
    place.market(1.0)
    assert "does not fit the budget" in place.start(0.5, code=5)

    assert "training would cost about $" in place.resume("--budget", "5", code=3)
    plan = place.json("plan", "first")["plan"]
    assert (plan["offer"], plan["alternates"], plan["preflight"]) == ("cpu east", ["cpu west"], ["cpu east has quota"])
    assert 0 < plan["cost_p50_usd"] < plan["cost_p90_usd"] < plan["worst_usd"] < 5

    place.approve()
    place.market(1.01)
    assert "now costs $1.01/h" in place.resume(code=6)

    place.market(1.0, "east", "west")
    assert "has none of the approved machines now" in place.resume(code=7)
    spent = place.json("cost", "first")
    assert (spent["settled_micro_usd"], spent["reserved_micro_usd"]) == (0, 0)

    place.market(1.0, "east")
    assert "rented cpu west at $1.00/h" in place.resume()
    spent = place.json("cost", "first")
    assert spent["reserved_micro_usd"] == 0 < spent["settled_micro_usd"] < 100_000
    assert "no provider lists a machine of ours" in place.forge("sweep", "--dry-run")
