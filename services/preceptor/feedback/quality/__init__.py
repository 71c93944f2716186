"""How far raters can be trusted, from their votes alone: pure functions of votes, no database, no transport."""
