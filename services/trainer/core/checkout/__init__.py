"""How a TinyWorlds checkout is driven, as functions of values."""
