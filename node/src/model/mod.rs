//! Llama-family models: loading, forward, loss, export, generation.
