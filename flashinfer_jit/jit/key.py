"""The name of one compiled kernel: configuration, tile and architecture."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashinfer_jit.jit.arch import Arch, get_arch
from flashinfer_jit.jit.config import KernelConfig, config_from_dict
from flashinfer_jit.jit.tiling import TileConfig, tile_from_dict


@dataclass(frozen=True, eq=False)
class KernelKey:
    """What get_kernel finds a kernel by.

    Attributes
    ----------
    config : KernelConfig
        What the kernel computes.
    tile : TileConfig
        How it cuts the work.
    arch : Arch
        What it runs on.
    """

    config: KernelConfig
    tile: TileConfig
    arch: Arch

    def __post_init__(self) -> None:
        self.config.validate(self.arch)
        # The key is looked up at every call: twenty fields are hashed once, not each time.
        object.__setattr__(self, "_hash", hash((self.config, self.tile, self.arch.name)))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined, no-any-return]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, KernelKey):
            return NotImplemented
        return self.arch.name == other.arch.name and self.tile == other.tile and self.config == other.config

    def slug(self) -> str:
        """Return the readable name, for example ``prefill-bf16-d128-g4-causal-q128x64-w4``."""
        return f"{self.config.slug()}-{self.tile.slug()}"

    @property
    def kernel_name(self) -> str:
        """The slug as the kernel's symbol, which profilers and error messages show."""
        return self.slug().replace("-", "_")

    def to_dict(self) -> dict[str, Any]:
        """Return the parts as plain values."""
        return {"arch": self.arch.name, "config": self.config.to_dict(), "tile": self.tile.to_dict()}

    def canonical_json(self) -> str:
        """Return the same text for equal keys: sorted names, no blanks."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def __str__(self) -> str:
        return f"{self.slug()} for {self.arch.name}"


def key_from_dict(values: Mapping[str, Any]) -> KernelKey:
    """Return the key that ``to_dict`` described; raises UnsupportedConfigError for what is not known."""
    return KernelKey(config_from_dict(values["config"]), tile_from_dict(values["tile"]), get_arch(values["arch"]))
