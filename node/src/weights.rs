//! The exact, in-place weight store that the model shares.
