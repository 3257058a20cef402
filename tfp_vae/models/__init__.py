"""Models made of an encoder, a decoder and a prior."""
