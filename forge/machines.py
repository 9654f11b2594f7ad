"""The compute providers of an installation, with the settings of a run."""

from __future__ import annotations

from typing import cast

from forge.config import Config
from forge.phase import Settings
from forge.protocols import Offer, Provider
from forge.registry import Registry, missing

LOCAL = "local"
"""The provider of this machine, which is there already."""


def provider_sections(registry: Registry) -> dict[str, type[Settings]]:
    """Section name -> settings of each provider that has some."""
    plugins = {name: registry.plugin("provider", name, ready=False) for name in registry.names("provider")}
    return {name: plugin.settings for name, plugin in plugins.items() if hasattr(plugin, "settings")}


def everywhere(found: dict[str, Provider]) -> dict[str, Provider]:
    """The same providers, looking in all regions and not only in those of their settings, where they know of regions."""
    return {name: cast(Provider, look()) if (look := getattr(provider, "everywhere", None)) else provider for name, provider in found.items()}


def providers(registry: Registry, config: Config | None = None) -> dict[str, Provider]:
    """All providers whose libraries are installed, with their settings, which the registry then hands out too.

    One without its libraries cannot have leased anything from here.
    """
    found: dict[str, Provider] = {}
    for name in registry.names("provider"):
        plugin = registry.plugin("provider", name, ready=False)
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
