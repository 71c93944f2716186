"""Who may do what: users, roles, keys, sessions, the audit trail. Votes know pseudonyms alone."""
