"""The builder: from a recipe to a deterministic tree, a canonical manifest and its MRENCLAVE.

Nothing here trusts what is installed on the machine: files come from the recipe, from the source folder it
names and from wheels locked by hash, and every byte that is measured is read once and hashed as it is
written. The measurement follows Gramine's layout (versions 1.5 to 1.9), by an implementation of our own.
"""
