"""What an rl run watches of itself. Knows no transport and no tensor."""
