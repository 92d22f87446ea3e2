"""The command line; filled in below."""

def run() -> None:
    raise SystemExit(2)
