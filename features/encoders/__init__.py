"""Tiles and words to vectors. Encoders are found by name; torch is imported only when one is loaded."""

from features.encoders.hub import pull
from features.encoders.registry import available_encoders, load_encoder
from features.encoders.request import EncoderRequest

__all__ = ["EncoderRequest", "available_encoders", "load_encoder", "pull"]
