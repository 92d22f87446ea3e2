"""The witness: a small daemon that cosigns a log's checkpoints, each once it extends the last one it saw."""
