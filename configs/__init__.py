"""Ready scopes, taggers and recipes."""
