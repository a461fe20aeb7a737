"""Who said yes: the approval desk, bound to one exact call, used once."""
