"""The words of the demo world: customers, things that break, and the sentences a support desk may write.

Good ingredients have many phrasings on purpose: a policy that learns to write only good replies should still have a
varied language, so that a loss of diversity in the report means collapse and nothing else.
"""

NAMES = (
    "Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "James",
    "Kate", "Liam", "Maria", "Noah", "Olga", "Peter", "Rosa", "Simon", "Tina", "Victor",
)  # fmt: skip

ITEMS = (
    "kettle", "lamp", "toaster", "blender", "heater", "fan", "radio", "printer", "scale", "mixer", "vacuum", "clock",
)  # fmt: skip

LEAKS = "leaks"
DEAD = "does not start"
BROKEN = "arrived broken"
NOISY = "makes a loud noise"
PARTS = "is missing a part"
PROBLEMS = (LEAKS, DEAD, BROKEN, NOISY, PARTS)

WARM_OPENINGS = (
    "Hello {name}, I am so sorry about this.",
    "Dear {name}, thank you for telling us.",
    "Oh no, {name}, that sounds annoying.",
    "Thanks for writing, {name}, we are here for you.",
    "Hi {name}, we will gladly help you with it.",
    "Good day {name}, please accept our apology.",
    "{name}, how good that you told us about it.",
    "We feel with you, {name}, that is bad luck.",
)
# Neutral openings name the item: practice in copying from the prompt, which a small model learns slowly.
NEUTRAL_OPENINGS = (
    "We got your note about the {item}.",
    "Your {item} case is open, {name}.",
    "This is the {item} service desk.",
    "Message about a {item} received.",
)
RUDE_OPENINGS = (
    "What is it now?",
    "You again.",
    "Did you even read the manual?",
    "That is not our fault.",
)

TOPICS = (
    "I see that your {item} {problem}.",
    "A {item} that {problem} is no fun.",
    "Let us look after your {item}.",
    "Nobody wants a {item} that {problem}.",
    "So your {item} {problem}, we understand.",
)

RIGHT_ACTIONS = {
    LEAKS: (
        "Please replace the rubber seal.",
        "A fresh seal will stop the drip.",
        "Dry it and press the seal back in.",
    ),
    DEAD: (
        "Please hold the power button for ten seconds.",
        "Try another wall socket first.",
        "A new fuse will wake it up.",
    ),
    BROKEN: (
        "We will ship a new one today.",
        "A courier will swap it at your door.",
        "You get all your money back this week.",
    ),
    NOISY: (
        "Please tighten the screws below.",
        "A drop of oil will calm it.",
        "Set it down on a soft mat.",
    ),
    PARTS: (
        "We will post the missing part tomorrow.",
        "Tell us the number of the part, please.",
        "The spare part is on its way to you.",
    ),
}
VAGUE_ACTIONS = (
    "We will see what we can do.",
    "Someone may look at it later.",
    "It might get better with time.",
    "There is not much to say yet.",
)

FILLERS = (
    "Our office is open on weekdays.",
    "Many people buy this model.",
    "The weather has been grey here.",
    "We have a new shop in town.",
    "Prices went up in the spring.",
    "Our team had a long week.",
)

WARM_CLOSINGS = (
    "Have a lovely day, {name}!",
    "We are happy to help any time.",
    "Take care and thank you for your patience.",
    "All the best from everyone here.",
    "Please write again if you need us, {name}.",
    "Warm wishes to you and your family.",
    "It was a pleasure to hear from you, {name}.",
    "Enjoy the rest of your week, {name}!",
)
RUDE_CLOSINGS = (
    "Do not write again.",
    "Stop bothering us.",
    "Next time be careful.",
    "Figure out the rest alone.",
)
