"""With what: leases written before anything is minted, and the brokers that mint and revoke."""
