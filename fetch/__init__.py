"""The only network code below the shells: bounded HTTP, a tile source, providers of collateral."""
