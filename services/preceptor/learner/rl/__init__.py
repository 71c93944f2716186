"""RL maths as pure functions of tensors: no config, no logging, no I/O.

Shapes: B sequences, T response tokens, V vocabulary. Masks are True where a token counts, and values where the mask is
False never reach a result or a gradient, whatever they are (NaN and infinity included).
"""
