"""The SPIFFE Workload API: identities handed to processes that the kernel vouches for.

A workload connects over a Unix socket and shows nothing; the kernel says who it is. No secret is
needed to obtain an identity, so none has to be kept.
"""
