"""The frozen nouns of Remit.

Nothing here reads a clock, a file or a network: every value is handed in, so that the same
nouns serve the authority, a gateway node and a relying party who only verifies.
"""
