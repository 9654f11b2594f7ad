"""Commands that end machines and prove it: teardown, sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from forge import ui
from forge.cli.complete import run_names

if TYPE_CHECKING:
    from forge.lease import Proof
    from forge.sweep import Left, Swept

PANEL = "Forge"


def add(app: typer.Typer) -> None:
    """Put the commands on the application."""
    for function in (teardown, sweep):
        app.command(rich_help_panel=PANEL)(function)


def teardown(
    run_id: str = typer.Argument("", metavar="RUN", help="Run id; without one, the newest run.", show_default=False, autocompletion=run_names),
    everything: bool = typer.Option(False, "--all", help="Every run that holds a machine."),
    as_json: bool = typer.Option(False, "--json", help="The proof of each machine as JSON."),
) -> None:
    """End every machine that RUN still holds, and prove it for each; exit code 70 and the command to run by hand when one does not go."""
    from forge.run import run_ids

    names = run_ids() if everything else [run_id]
    found = [(name, proofs) for name, proofs in map(_release, names) if proofs or not everything]
    if as_json:
        ui.out_json([{"run": name, **proof.model_dump(mode="json")} for name, proofs in found for proof in proofs])
    else:
        _show_proofs(found)
    _raise_if_up(found)
    if not as_json:
        ui.next_step(f"forge cost {found[0][0]}" if found else "forge runs")


def sweep(
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be ended."),
    all_regions: bool = typer.Option(False, "--all-regions", help="Look in every region of every cloud, not only in those of the settings."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Also end machines of which no run here knows, without asking."),
    as_json: bool = typer.Option(False, "--json", help="What became of each machine as JSON."),
) -> None:
    """End machines that any run left, found by what the providers list and not by our records."""
    from forge import machines
    from forge import sweep as sweeping
    from forge.config import resolve
    from forge.registry import Registry
    from forge.sections import all_sections

    unlisted: dict[str, str] = {}
    interactive = ui.is_interactive() and not as_json

    def agree(left: Left) -> bool:
        one = left.resource
        return yes or (interactive and ui.ask(f"{one.provider} {one.id} of run {one.run or 'unknown'}: {left.why}. End it?"))

    registry = Registry()
    config = resolve(all_sections(registry))
    providers = machines.providers(registry, config)
    if all_regions:
        providers = machines.everywhere(providers)
    swept = list(sweeping.sweep(providers, dry_run=dry_run, agree=agree, unlisted=unlisted.__setitem__))
    if as_json:
        ui.out_json({"machines": [one.model_dump(mode="json") for one in swept], "not_listed": unlisted})
    else:
        _show_swept(swept, unlisted)
    if error := sweeping.still_there(swept):
        raise error
    if unlisted:
        from forge.errors import StillBilling

        name, why = next(iter(unlisted.items()))
        raise StillBilling(f"the machines of {', '.join(unlisted)} could not be listed", why=f"{name}: {why}", next="forge sweep")


def _release(run_id: str) -> tuple[str, list[Proof]]:
    from forge import machines
    from forge.config import resolve
    from forge.lease import Leases
    from forge.registry import Registry
    from forge.run import Run
    from forge.sections import all_sections

    opened = Run.open(run_id)
    try:
        with opened.lock():
            registry = Registry(opened.plugin_dirs)
            config = resolve(all_sections(registry), stored=opened.overrides())
            proofs = Leases(opened, machines.providers(registry, config)).release()
        return opened.id, proofs
    finally:
        opened.close()


def _raise_if_up(found: list[tuple[str, list[Proof]]]) -> None:
    from forge.lease import still_billing
    from forge.run import Run

    for name, proofs in found:
        if up := [proof.lease for proof in proofs if not proof.is_gone]:
            raise still_billing(Run.open(name), up)


def _show_proofs(found: list[tuple[str, list[Proof]]]) -> None:
    if not any(proofs for _, proofs in found):
        ui.out(f"run {found[0][0]} holds no machine, and never did" if found else "no run holds a machine")
        return
    ui.table([row for name, proofs in found for proof in proofs for row in _rows(name, proof)], ("run", "provider", "what", "id", "", "cost", "proof"))


def _rows(run: str, proof: Proof) -> list[tuple[str, str, str, str, str, str, str]]:
    """A line for each thing of the lease; the machine carries cost and reason. One that was never listed is named by its lease."""
    machine = proof.resource or next((one.id for one in proof.things if one.kind == "machine"), proof.lease)
    rows = [(run, proof.provider, "machine", machine, "gone" if proof.is_gone else "may be up", _cost(proof), _evidence(proof))]
    for one in sorted(proof.things, key=lambda one: one.kind != "machine"):
        if one.id != machine:
            told = _not_listed(one.seen_gone) if one.state == "gone" else one.state
            rows.append((run, proof.provider, one.kind, one.id, "gone" if one.state == "gone" else "may be up", "", told))
    return rows


def _not_listed(times: tuple[str, ...]) -> str:
    return f"not listed at {times[0]} and {times[-1]}" if times else ""


def _cost(proof: Proof) -> str:
    from forge.ledger import dollars

    return dollars(proof.micro_usd) if proof.micro_usd is not None else "not known yet"


def _evidence(proof: Proof) -> str:
    if proof.seen_gone:
        return _not_listed(proof.seen_gone)
    return proof.why or ("settled earlier" if proof.is_gone else proof.state.lower())


def _show_swept(swept: list[Swept], unlisted: dict[str, str]) -> None:
    for name, why in unlisted.items():
        ui.out(f"{name}: its machines cannot be listed ({why})")
    if not swept and not unlisted:
        ui.out("no provider lists a machine of ours")
        return
    if swept:
        ui.table([(one.provider, one.kind, one.id, one.run, one.done, one.why) for one in swept], ("provider", "what", "id", "run", "", "why"))
    unknown = [one for one in swept if one.done == "kept" and one.why.startswith("no run")]
    ui.next_step("forge sweep --yes" if unknown else "forge sweep" if any(one.done == "would be ended" for one in swept) else "forge runs")
