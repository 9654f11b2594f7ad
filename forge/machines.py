"""The compute providers of an installation, with the settings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NoReturn, cast

from forge.config import Config
from forge.errors import ForgeError
from forge.phase import Requirement, Settings
from forge.protocols import Lease, Need, Offer, Provider, Resource
from forge.registry import Registry, missing

LOCAL = "local"
"""The provider of this machine, which is there already."""


def provider_sections(registry: Registry) -> dict[str, type[Settings]]:
    """Section name -> settings of each provider that has some."""
    plugins = {name: _plugin(registry, name) for name in registry.names("provider")}
    return {name: plugin.settings for name, plugin in plugins.items() if hasattr(plugin, "settings")}


def everywhere(found: dict[str, Provider]) -> dict[str, Provider]:
    """The same providers, looking in all regions and not only in those of their settings, where they know of regions."""
    return {name: cast(Provider, look()) if (look := getattr(provider, "everywhere", None)) else provider for name, provider in found.items()}


def providers(registry: Registry, config: Config | None = None) -> dict[str, Provider]:
    """All providers whose libraries are installed, with their settings, which the registry then hands out too.

    One without its libraries cannot have leased anything from here. One that cannot be imported can: it says so when it is asked,
    and keeps nobody from ending the machines of the others.
    """
    found: dict[str, Provider] = {}
    for name in registry.names("provider"):
        plugin = _plugin(registry, name)
        if missing(getattr(plugin, "requires", ())):
            continue
        if config is not None and name in config.sections():
            plugin = plugin.configured(config.section(name))
            registry.replace("provider", name, plugin)
        found[name] = cast(Provider, plugin)
    return found


def has_price(offer: Offer) -> bool:
    """Nothing is free unless somebody says so: $0.00 of a rented machine without a source is an unknown price."""
    return offer.usd_per_hour > 0 or (offer.usd_per_hour == 0 and (offer.provider == LOCAL or bool(offer.price_source)))


class Unusable:
    """Stands for a provider that cannot be imported."""

    requires: ClassVar[tuple[Requirement, ...]] = ()

    def __init__(self, name: str, error: ForgeError) -> None:
        self.name, self.error = name, error

    def _say(self, *_: object) -> NoReturn:
        raise ForgeError(self.error.fact, why=self.error.why, next=self.error.next)

    def quote(self, need: Need) -> list[Offer]:
        """Raises why."""
        self._say(need)

    def start(self, lease: Lease) -> Resource:
        """Raises why."""
        self._say(lease)

    def find(self, scope: str) -> list[Resource]:
        """Raises why: what it has leased earlier may be up."""
        self._say(scope)

    def stop(self, resource: Resource) -> None:
        """Raises why."""
        self._say(resource)

    def channel(self, resource: Resource, root: Path) -> Any:
        """Raises why."""
        self._say(resource, root)

    def settle(self, resource: Resource) -> int:
        """Raises why."""
        self._say(resource)


def _plugin(registry: Registry, name: str) -> Any:
    try:
        return registry.plugin("provider", name, ready=False)
    except ForgeError as error:
        return Unusable(name, error)
