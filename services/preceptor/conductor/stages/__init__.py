"""What the stages of a loop do. A stage may be cut off anywhere and is then run again from its beginning."""
