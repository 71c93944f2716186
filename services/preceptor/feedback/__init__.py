"""FeedbackService: comparisons, leases and votes. It owns the votes database."""
