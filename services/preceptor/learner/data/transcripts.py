"""HH-RLHF transcripts, as `preceptor.common.transcripts` reads them for the importer too."""

from preceptor.common.transcripts import (
    OddRowError,
    TranscriptPair,
    parse_transcript,
    render_transcript,
    split_pair,
)

__all__ = ["OddRowError", "TranscriptPair", "parse_transcript", "render_transcript", "split_pair"]
