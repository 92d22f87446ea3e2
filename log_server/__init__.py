"""The log server: takes entries in, orders them, signs and publishes, and shows what it holds."""
