"""The whole story; filled in below."""
