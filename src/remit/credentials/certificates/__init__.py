"""What the brokers that sign certificates share: a book of serials, lists of the revoked, questions."""
