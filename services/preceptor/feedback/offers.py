"""Live rollout groups as they arrive: minted into comparisons, each at most once."""

from __future__ import annotations

from preceptor.common.errors import AlreadyExists, InvalidInput, NotFound
from preceptor.feedback.minting import LiveGroup, MintingRules, Refusal, mint
from preceptor.feedback.service import FeedbackService

MINTED = "minted"
REPEATED = "repeated"
REFUSED = "refused"


class OfferDesk:
    def __init__(self, feedback: FeedbackService, rules: MintingRules) -> None:
        self._feedback = feedback
        self._rules = rules

    def offer(self, group: LiveGroup) -> tuple[str, str]:
        """Mints the group's comparison. Returns the outcome in one word, and what there is to say about it.

        The outcome is "minted", "repeated" (this group is there already, be it from another attempt), "refused" (the
        service would never take it), or a `Refusal`.

        Raises:
            Overloaded, Unavailable: nothing was stored; offering again may succeed.
        """
        comparison = mint(group, self._rules)
        if isinstance(comparison, Refusal):
            return comparison.value, group.group_id
        try:
            made = self._feedback.create_comparisons([comparison])
        except AlreadyExists:
            return REPEATED, "another attempt of the group was offered before"
        except (InvalidInput, NotFound) as error:
            return REFUSED, error.message
        return (MINTED if made.created else REPEATED), comparison.comparison_id
