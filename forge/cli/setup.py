"""Commands that set up: init, doctor, config, phases, plugins, skills."""

from __future__ import annotations

from pathlib import Path

import typer

from forge import ui
from forge.cli.complete import recipe_names
from forge.cli.groups import new_group

PANEL = "Set up"
Json = typer.Option(False, "--json", help="As JSON.")


def add(app: typer.Typer) -> None:
    """Put the commands on the application."""
    for function in (init, doctor, phases):
        app.command(rich_help_panel=PANEL)(function)
    for group in (_config_group(), _plugins_group(), _skills_group()):
        app.add_typer(group, rich_help_panel=PANEL)


def init(
    folder: Path = typer.Argument(Path(), metavar="FOLDER", help="Where to set up.", show_default=False), sample: bool = typer.Option(False, "--sample", help="Also write a small corpus to try."),
    recipe: str = typer.Option("", "--recipe", help="Start from a shipped recipe instead of from nothing.", show_default=False, autocompletion=recipe_names),
) -> None:
    """Write a commented forge.yaml, from a recipe if you like; --sample adds a small corpus to try."""
    from forge.cli.initial import write_initial

    made = write_initial(folder, sample=sample, recipe=recipe)
    ui.lines(f"wrote {path}" for path in made)
    ui.next_step(f"forge run {folder / 'sample'} --dry-run" if sample else "forge run CORPUS --dry-run")


def doctor(as_json: bool = Json) -> None:
    """Check this machine: Python, extras, GPU, disk, keys; each problem with its fix."""
    from forge.doctor import examine, has_problem

    findings = examine()
    if as_json:
        ui.out_json([finding.model_dump() for finding in findings])
    else:
        marks = {"ok": "✓", "missing": "–", "problem": "✗"}
        ui.table([(marks[f.state], f.name, f.detail, f.fix) for f in findings], ("", "check", "found", "to change it"))
        ui.next_step("forge run CORPUS --dry-run" if not has_problem(findings) else "mend what is marked ✗, then forge doctor")
    if has_problem(findings):
        raise typer.Exit(1)


def phases(as_json: bool = Json) -> None:
    """The phases in order: what each reads, writes and does."""
    from forge.registry import Registry
    from forge.sections import ordered_phases

    found = ordered_phases(Registry())
    if as_json:
        ui.out_json([
            {"name": p.name, "summary": p.summary, "reads": p.reads, "writes": [w.path for w in p.writes], "where": p.where} for p in found
        ])
        return
    ui.table([(p.name, p.where, p.summary) for p in found], ("phase", "where", "what it does"))
    ui.next_step("forge skills show PHASE")


def _config_group() -> typer.Typer:
    group = new_group("config", "Settings: show them with their origin, list and copy recipes.")

    @group.command("show")
    def config_show(
        section: str = typer.Argument("", metavar="SECTION", help="Only this section.", show_default=False),
        recipe: str = typer.Option("", "--recipe", help="As if run with this recipe.", show_default=False, autocompletion=recipe_names),
        set_: list[str] = typer.Option([], "--set", metavar="SECTION.KEY=VALUE", help="As if run with this.", show_default=False),
        as_json: bool = Json,
    ) -> None:
        """Every setting with its value, where it came from and what it means."""
        from forge.cli.settings import config_lines
        from forge.config import resolve
        from forge.errors import UsageError, nearest
        from forge.registry import Registry
        from forge.sections import all_sections

        config = resolve(all_sections(Registry()), recipe=recipe, flags=set_)
        values = config.values()
        if section:
            values = [value for value in values if value.key.partition(".")[0] == section]
        if not values:
            raise UsageError(f'there is no section "{section}"', why=nearest(section, config.sections()), next="forge config show")
        if as_json:
            ui.out_json([value.model_dump() for value in values])
            return
        ui.lines(config_lines(values))
        ui.next_step("forge run CORPUS --set section.key=value, or put it into forge.yaml")

    @group.command("recipes")
    def config_recipes(as_json: bool = Json) -> None:
        """The recipes that ship."""
        from forge.config import recipe_names, recipe_text

        rows = [(name, recipe_text(name).partition("\n")[0].lstrip("# ")) for name in recipe_names()]
        if as_json:
            ui.out_json([{"name": name, "about": about} for name, about in rows])
            return
        ui.table(rows, ("recipe", "what it is for"))
        ui.next_step("forge config copy RECIPE")

    @group.command("copy")
    def config_copy(
        recipe: str = typer.Argument(..., metavar="RECIPE", help="A shipped recipe.", show_default=False, autocompletion=recipe_names),
        target: Path = typer.Argument(Path("forge.yaml"), metavar="FILE", help="File to write."),
    ) -> None:
        """Copy a recipe to edit it."""
        from forge.config import CONFIG_FILE, recipe_text
        from forge.errors import UsageError

        if target.exists():
            raise UsageError(f"{target} exists already", next=f"forge config copy {recipe} OTHER.yaml")
        target.write_text(recipe_text(recipe), encoding="utf-8")
        ui.out(f"wrote {target}")
        ui.next_step(f"forge run CORPUS{'' if target == Path(CONFIG_FILE) else f' --recipe {target}'}")

    return group


def _plugins_group() -> typer.Typer:
    group = new_group("plugins", "Extractors, teachers, providers, tasks: list, start one, check one.")

    @group.command("list")
    def plugins_list(
        plugin_dir: list[Path] = typer.Option([], "--plugin-dir", help="Folder with your own plugins.", show_default=False), as_json: bool = Json
    ) -> None:
        """All plugins by kind, and which extra a missing one needs."""
        from forge.extending import plugin_rows

        rows = plugin_rows(tuple(plugin_dir))
        if as_json:
            ui.out_json([dict(zip(("kind", "name", "state"), row, strict=True)) for row in rows])
            return
        ui.table(rows, ("kind", "name", "state"))
        ui.next_step("forge plugins new extractor NAME")

    @group.command("new")
    def plugins_new(
        kind: str = typer.Argument(..., metavar="KIND", help="extractor"),
        name: str = typer.Argument(..., metavar="NAME", help="Its name: lower-case letters, digits, _."),
        folder: Path = typer.Option(Path(), "--folder", help="Where to put the package."),
    ) -> None:
        """Write a plugin package that works and can be installed."""
        from forge.extending import write_new

        made = write_new(kind, name, folder)
        for file in sorted(path for path in made.rglob("*") if path.is_file()):
            ui.out(f"wrote {file}")
        ui.next_step(f"forge plugins check {made}")

    @group.command("check")
    def plugins_check(
        path: Path = typer.Argument(..., metavar="PATH", help="A plugin file, or a package with pyproject.toml and vectors/."),
        sample: Path | None = typer.Option(None, "--sample", help="A document for an extractor to read.", show_default=False),
        start: bool = typer.Option(False, "--start", help="Lease the cheapest machine of a provider for the check; it costs money."),
        as_json: bool = Json,
    ) -> None:
        """Run the conformance suite on a plugin and show the passages that prep cuts from its documents."""
        from forge.conformance import check_plugin, module_folder
        from forge.extending import sample_passages

        checks = check_plugin(path, sample, start=start)
        passages = sample_passages(path, sample)
        if as_json:
            ui.out_json({"checks": [{"name": one.name, "detail": one.detail} for one in checks], "passages": passages})
            return
        for one in checks:
            ui.out(f" ✓ {one.name}  {one.detail}")
        for passage in passages:
            ui.out(f"\n{passage['path']}  {passage['locator']}  {passage['heading']}".rstrip())
            ui.out(f"  {passage['text']}")
        ui.next_step(f"forge run CORPUS --plugin-dir {module_folder(path)}")

    return group


def _skills_group() -> typer.Typer:
    group = new_group("skills", "What a person or an agent reads to run each phase.")

    @group.command("list")
    def skills_list(as_json: bool = Json) -> None:
        """The skill of each phase."""
        from forge.skills import list_skills

        rows = list_skills()
        if as_json:
            ui.out_json([{"name": name, "description": about} for name, about in rows])
        else:
            ui.table(rows, ("skill", "use it for"))
            ui.next_step("forge skills show PHASE, or forge skills install")

    @group.command("show")
    def skills_show(name: str = typer.Argument("forge", metavar="NAME", help="A phase, or nothing for the root skill.")) -> None:
        """Print one skill."""
        from forge.skills import skill_text

        ui.out(skill_text(name).rstrip())

    @group.command("install")
    def skills_install(
        folder: Path = typer.Argument(Path(), metavar="FOLDER", help="Project folder.", show_default=False), agents: bool = typer.Option(False, "--agents", help="Into .agents/skills instead of .claude/skills."),
    ) -> None:
        """Write the skills where coding agents look for them."""
        from forge.skills import install

        made = install(folder, agents=agents)
        ui.out(f"wrote {len(made)} skills to {made[0].parent.parent}")
        ui.next_step("forge skills list")

    return group
