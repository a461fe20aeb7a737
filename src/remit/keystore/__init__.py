"""Keys of Remit's own that are kept elsewhere: in a token, an HSM, whatever a provider reaches."""
